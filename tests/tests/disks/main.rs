//! Disks that are full, cut off, damaged and rolled back, under real nodes. Promises P1, P2, P4 and P6: what was accepted
//! arrives once, whatever the disk did, and a full disk refuses and recovers by itself. `CUTS` sets how many power cuts,
//! `SEED` repeats the choices. What needs root and a loop device says loudly that it was skipped.

#![expect(clippy::unwrap_used, reason = "a test fails where it finds what should not be")]

#[path = "../kills/apps.rs"]
mod apps;
mod cuts;
mod full;
#[path = "../kills/ledger.rs"]
mod ledger;
mod lost;

use waypost_tests::harness::chain::Chain;
use waypost_tests::harness::{Transport, Volume};

/// Whether this machine can mount volumes; says so when it cannot.
fn can_mount(test: &str) -> bool {
    let Err(why) = Volume::possible() else { return true };
    println!("\n!!! SKIPPED {test}: {why:#}\n");
    false
}

/// A chain whose nodes each have a volume of so many MiB; in this order, so that they are unmounted first.
struct OnVolumes {
    volumes: Vec<Volume>,
    chain: Chain,
}

impl OnVolumes {
    fn new(name: &str, mib: [Option<u64>; 3]) -> Self {
        let mut volumes = Vec::new();
        let chain = Chain::over(name, Transport::Tcp, |chain| {
            for (node, mib) in [&chain.a, &chain.b, &chain.c].into_iter().zip(mib) {
                let Some(mib) = mib else { continue };
                let image = chain.sandbox.file(&format!("{}.ext4", node.name()));
                volumes.push(Volume::new(&image, &node.data(), mib).unwrap());
            }
        });
        Self { volumes, chain: chain.unwrap() }
    }
}
