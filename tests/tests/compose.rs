//! Three containers, by the README's own commands: an image of nothing but the node, three nodes on two networks, a
//! message from a to c, and nothing left behind. Skipped, and said so, where no Docker engine answers.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use waypost_tests::harness::readme::{COMPOSE, commands};
use waypost_tests::harness::{Finished, Sandbox, binary, command, wait};
use waypost_tests::workspace_root;

/// For a command of the README, images and networks included.
const DONE: Duration = Duration::from_secs(120);

fn answers(program: &str, args: &[&str]) -> bool {
    let ended =
        Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    ended.is_ok_and(|status| status.success())
}

/// How compose is called here; none where there is no engine or no compose, which is said loudly.
fn compose() -> Option<&'static str> {
    let skipped = |why: &str| println!("\n!!! SKIPPED the containers: {why}\n");
    if !answers("docker", &["info"]) {
        skipped("no Docker engine answers `docker info`");
        return None;
    }
    if answers("docker-compose", &["version"]) {
        return Some("docker-compose");
    }
    if answers("docker", &["compose", "version"]) {
        return Some("docker compose");
    }
    skipped("there is neither docker-compose nor docker's compose plugin");
    None
}

/// The containers, networks, volumes and image of one test: gone with it.
struct Project {
    sandbox: Sandbox,
    root: PathBuf,
    name: String,
    compose: &'static str,
}

impl Project {
    fn new(compose: &'static str) -> Result<Self> {
        let name = format!("waypost-test-{}", std::process::id());
        Ok(Self { sandbox: Sandbox::new("compose")?, root: workspace_root()?, name, compose })
    }

    /// Types a line as it is, but for names of this test's own and the way compose is called here.
    fn shell(&self, text: &str) -> Result<Finished> {
        println!("> {text}");
        let mut shell = Command::new("bash");
        command::clean_environment(&mut shell);
        shell.args(["-o", "pipefail", "-ec", &text.replace("docker-compose", self.compose)]).current_dir(&self.root);
        shell.env("COMPOSE_PROJECT_NAME", &self.name).env("WAYPOST_IMAGE", &self.name);
        command::run(&mut shell, None, self.sandbox.path(), DONE)?.ok().with_context(|| self.logs())
    }

    fn logs(&self) -> String {
        let said = Command::new("docker").args(["ps", "--all", "--filter", &format!("name={}", self.name)]).output();
        said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default()
    }

    /// What `make image` does, with the binary under test.
    fn image(&self) -> Result<()> {
        let binary = binary::find()?;
        self.shell(&format!("bash node/image/build.sh '{}' {}", binary.display(), self.name)).map(drop)
    }

    /// A person is slower than three nodes are; a test waits for what the next line takes for granted.
    fn await_nodes(&self, next: &str) -> Result<()> {
        let fact = if next.contains("send") {
            "docker-compose exec -T a waypost --json routes | grep -q '\"name\":\"c\"'"
        } else if next.contains("invite") {
            "docker-compose exec -T b waypost status"
        } else if next.contains("ps") {
            "test 3 = $(docker ps --quiet --filter health=healthy --filter name=$COMPOSE_PROJECT_NAME | wc -l)"
        } else {
            return Ok(());
        };
        wait::until(&format!("what `{next}` needs"), DONE, &[], || Ok(self.shell(fact).is_ok().then_some(())))
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = self.shell("docker-compose down --volumes --timeout 5");
        let _ = self.shell(&format!("docker image rm {}", self.name));
    }
}

#[test]
fn the_readmes_three_containers_carry_a_message_and_leave_nothing_behind() {
    let Some(compose) = compose() else { return };
    let project = Project::new(compose).unwrap();
    let readme = fs::read_to_string(project.root.join("README.md")).unwrap();
    let lines = commands(&readme).into_iter().filter(|line| line.host.as_deref() == Some(COMPOSE));
    let lines: Vec<String> = lines.map(|line| line.text).collect();
    let mut received = None;
    for line in &lines {
        if line == "make image" {
            project.image().unwrap();
            continue;
        }
        project.await_nodes(line).unwrap();
        let said = project.shell(line).unwrap();
        if line.contains("waypost recv") {
            received = Some(said.stdout);
        }
    }
    assert_eq!(received.as_deref(), Some(b"good morning\n".as_slice()), "{lines:?}");
    for kind in ["ps --all --format {{.Names}}", "volume ls --format {{.Name}}", "network ls --format {{.Name}}"] {
        let left = project.shell(&format!("docker {kind}")).unwrap().text();
        assert!(!left.contains(&project.name), "docker {kind}: {left}");
    }
}

#[test]
fn compose_keeps_a_and_c_apart() {
    let Some(compose) = compose() else { return };
    let project = Project::new(compose).unwrap();
    let shown = project.shell("docker-compose config").unwrap().text();
    let networks = |service: &str| {
        let mut lines = shown.lines().skip_while(|line| *line != format!("  {service}:"));
        let block: Vec<&str> = lines.by_ref().skip(1).take_while(|line| line.starts_with("   ")).collect();
        ["west", "east"].map(|network| block.iter().any(|line| line.trim().starts_with(&format!("{network}:"))))
    };
    assert_eq!([networks("a"), networks("b"), networks("c")], [[true, false], [true, true], [false, true]], "{shown}");
}
