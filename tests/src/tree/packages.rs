//! The packages as `cargo metadata` tells them: version floors, and what the pure crates may not reach.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Project;

/// Every package of the lock file that this platform may need, and their edges.
#[derive(Deserialize)]
pub struct Packages {
    /// Each once.
    pub packages: Vec<Package>,
    resolve: Resolve,
}

/// One package.
#[derive(Deserialize)]
pub struct Package {
    id: String,
    /// As in its manifest.
    pub name: String,
    /// `major.minor.patch` and what may follow.
    pub version: String,
    /// An SPDX expression.
    pub license: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// `None` for a normal dependency, else `dev` or `build`.
    kind: Option<String>,
}

/// The oldest version of a package that has none of the holes known when this was written. The advisory list cargo
/// tools read misses several of these, so they stand here.
const FLOORS: [(&str, [u64; 3]); 7] = [
    ("yamux", [0, 14, 1]),
    ("libp2p-quic", [0, 13, 1]),
    ("quinn-proto", [0, 11, 15]),
    ("h2", [0, 4, 16]),
    ("hickory-proto", [0, 26, 1]),
    ("bytes", [1, 11, 1]),
    ("rocksdb", [0, 24, 0]),
];

/// The crates that only decide and describe.
const PURE: [&str; 2] = ["waypost-core", "waypost-proto"];
/// What a crate that only decides cannot need.
const WORLDLY: [&str; 8] = ["tokio", "libp2p", "libp2p-core", "rocksdb", "librocksdb-sys", "tonic", "mio", "hyper"];

impl Packages {
    /// Asks cargo. Needs no network once the dependencies have been fetched.
    ///
    /// # Errors
    /// When cargo is missing or refuses, for example because `Cargo.lock` is out of date.
    pub fn read(root: &Path) -> Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let host = host_triple()?;
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", &host])
            .current_dir(root)
            .output()
            .context("running cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).context("reading cargo metadata")
    }

    fn find(&self, name: &str) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(move |package| package.name == name)
    }

    /// Names of everything reached from `from` by normal dependencies, with the name it was reached through.
    fn reached(&self, from: &str) -> BTreeMap<&str, &str> {
        let names: BTreeMap<&str, &str> = self.packages.iter().map(|p| (p.id.as_str(), p.name.as_str())).collect();
        let edges: BTreeMap<&str, &Node> = self.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
        let mut reached = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut open: Vec<&str> = self.find(from).map(|package| package.id.as_str()).collect();
        while let Some(id) = open.pop() {
            let Some(node) = edges.get(id) else { continue };
            for dependency in &node.deps {
                let normal = dependency.dep_kinds.iter().any(|kind| kind.kind.is_none());
                if normal && seen.insert(dependency.pkg.as_str()) {
                    let name = |id: &str| names.get(id).copied().unwrap_or("?");
                    reached.insert(name(&dependency.pkg), name(id));
                    open.push(&dependency.pkg);
                }
            }
        }
        reached
    }
}

fn host_triple() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().context("running rustc")?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// Packages older than their floor, and floors of packages that are no longer there.
#[must_use]
pub fn check_floors(project: &Project) -> Vec<String> {
    let mut found = Vec::new();
    for (name, floor) in FLOORS {
        let mut absent = true;
        for package in project.packages.find(name) {
            absent = false;
            if version(&package.version) < floor {
                let [major, minor, patch] = floor;
                found.push(format!("{name} {} is older than {major}.{minor}.{patch}", package.version));
            }
        }
        if absent {
            found.push(format!("{name} is not in the tree any more: take its floor out of the list"));
        }
    }
    found
}

/// The three numbers; a pre-release counts as its predecessor's last.
fn version(text: &str) -> [u64; 3] {
    let release = text.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    [(); 3].map(|()| numbers.next().unwrap_or(0))
}

/// Paths from a pure crate to the world.
#[must_use]
pub fn check_purity(project: &Project) -> Vec<String> {
    impurities(&project.packages)
}

fn impurities(packages: &Packages) -> Vec<String> {
    let mut found = Vec::new();
    for pure in PURE {
        if packages.find(pure).next().is_none() {
            found.push(format!("{pure} is not in the workspace: this check checks nothing"));
        }
        let reached = packages.reached(pure);
        for worldly in WORLDLY {
            if let Some(through) = reached.get(worldly) {
                found.push(format!("{pure} reaches {worldly} through {through}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(version("0.11.9") < version("0.11.15"));
        assert_eq!(version("0.19.0+11.8.1"), [0, 19, 0]);
        assert_eq!(version("0.5.0-alpha"), [0, 5, 0]);
    }

    #[test]
    fn a_normal_path_to_the_world_is_found_and_a_build_path_is_not() {
        let packages: Packages = serde_json::from_value(serde_json::json!({
            "packages": [
                {"id": "c", "name": "waypost-core", "version": "0.1.0", "license": "MIT"},
                {"id": "p", "name": "waypost-proto", "version": "0.1.0", "license": "MIT"},
                {"id": "m", "name": "middle", "version": "1.0.0", "license": null},
                {"id": "t", "name": "tokio", "version": "1.0.0", "license": "MIT"},
                {"id": "h", "name": "hyper", "version": "1.0.0", "license": "MIT"},
            ],
            "resolve": {"nodes": [
                {"id": "c", "deps": [{"pkg": "m", "dep_kinds": [{"kind": null}]}, {"pkg": "h", "dep_kinds": [{"kind": "dev"}]}]},
                {"id": "p", "deps": [{"pkg": "t", "dep_kinds": [{"kind": "build"}]}]},
                {"id": "m", "deps": [{"pkg": "t", "dep_kinds": [{"kind": "build"}, {"kind": null}]}]},
                {"id": "t", "deps": []},
            ]},
        }))
        .unwrap();
        assert_eq!(impurities(&packages), ["waypost-core reaches tokio through middle"]);
    }
}
