//! Being told to stop. The first SIGTERM or SIGINT asks; the second ends the process at once, which loses nothing that
//! was accepted: everything acknowledged is on disk.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// With this a process ends that was told twice: what a shell says of one ended by Ctrl-C.
const EXIT_TOLD_TWICE: i32 = 130;

/// Whether this process was told to stop.
#[derive(Clone, Debug)]
pub struct Signals {
    told: CancellationToken,
}

impl Signals {
    /// Listens from now on. To be called inside a tokio runtime, before anything that may take long.
    ///
    /// # Errors
    /// The system gives no handler.
    pub fn listen() -> io::Result<Self> {
        let both = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let told = CancellationToken::new();
        tokio::spawn(hear(both, told.clone()));
        Ok(Self { told })
    }

    /// Waits until the process is told.
    pub async fn told(&self) {
        self.told.cancelled().await;
    }
}

async fn hear(mut both: (Signal, Signal), told: CancellationToken) {
    either(&mut both).await;
    told.cancel();
    either(&mut both).await;
    tracing::warn!("told twice to stop: ending at once; what was accepted is on disk");
    std::process::exit(EXIT_TOLD_TWICE);
}

async fn either((terminate, interrupt): &mut (Signal, Signal)) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
