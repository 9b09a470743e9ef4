//! A local network of network namespaces: a switch and hosts, apart from the machine's own interfaces. Needs root and
//! iproute2.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// The network. Taken down when dropped.
#[derive(Debug)]
pub struct Lan {
    prefix: String,
    hosts: Vec<String>,
}

impl Lan {
    /// A switch with these hosts, `10.77.0.1` and so on; `None`, said loudly, where this user may not make one.
    ///
    /// # Errors
    /// When it can be begun and not finished.
    pub fn new(hosts: &[&str]) -> Result<Option<Self>> {
        let prefix = format!("wp{}x{}", std::process::id(), NETWORKS.fetch_add(1, Ordering::Relaxed));
        let mut lan = Self { prefix, hosts: Vec::new() };
        if let Err(why) = lan.add_namespace("switch") {
            eprintln!("SKIPPED: no network namespaces here ({why:#}); run this test as root, with iproute2");
            return Ok(None);
        }
        let switch = lan.namespace("switch");
        // Without snooping a switch forwards multicast to everybody, as the cheap ones do.
        ip(&["-n", &switch, "link", "add", "name", "sw0", "type", "bridge", "mcast_snooping", "0"])?;
        ip(&["-n", &switch, "link", "set", "sw0", "up"])?;
        for (at, host) in hosts.iter().enumerate() {
            lan.add_namespace(host)?;
            lan.plug_in(host, &switch, at + 1)?;
        }
        Ok(Some(lan))
    }

    fn plug_in(&self, host: &str, switch: &str, number: usize) -> Result<()> {
        let (own, port, address) = (self.namespace(host), format!("p{number}"), format!("10.77.0.{number}/24"));
        ip(&["link", "add", "v0", "netns", &own, "type", "veth", "peer", "name", &port, "netns", switch])?;
        ip(&["-n", switch, "link", "set", &port, "master", "sw0", "up"])?;
        ip(&["-n", &own, "address", "add", &address, "dev", "v0"])?;
        ip(&["-n", &own, "link", "set", "lo", "up"])?;
        ip(&["-n", &own, "link", "set", "v0", "up"])?;
        ip(&["-n", &own, "route", "add", "224.0.0.0/4", "dev", "v0"])
    }

    fn add_namespace(&mut self, host: &str) -> Result<()> {
        ip(&["netns", "add", &self.namespace(host)])?;
        self.hosts.push(host.to_owned());
        Ok(())
    }

    /// The namespace of a host.
    #[must_use]
    pub fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for host in &self.hosts {
            let _ = ip(&["netns", "delete", &self.namespace(host)]);
        }
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let Output { status, stderr, .. } = Command::new("ip").args(args).output().context("running ip")?;
    if !status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&stderr).trim());
    }
    Ok(())
}
