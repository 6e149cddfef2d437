//! Being asked to end (Ctrl-C or SIGTERM), and to look at files again (SIGHUP).

use crate::exit::Failure;

/// Requests to end, one after the other.
pub struct Interrupts {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Interrupts {
    /// Listens from now on; the process no longer ends by itself.
    pub fn listen() -> Result<Self, Failure> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let failed = |error: std::io::Error| Failure::new(format!("cannot listen for signals: {error}"));
            Ok(Self {
                interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
                terminate: signal(SignalKind::terminate()).map_err(failed)?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Returns at the next request.
    pub async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Requests to look at files again. Without them a process ends when its terminal does.
pub struct Hangups {
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
}

impl Hangups {
    /// Listens from now on.
    pub fn listen() -> Result<Self, Failure> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let hangup = signal(SignalKind::hangup())
                .map_err(|error| Failure::new(format!("cannot listen for signals: {error}")))?;
            Ok(Self { hangup })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Returns at the next request, if somebody listens for them.
    pub async fn next_of(hangups: &mut Option<Self>) {
        #[cfg(unix)]
        if let Some(hangups) = hangups
            && hangups.hangup.recv().await.is_some()
        {
            return;
        }
        #[cfg(not(unix))]
        let _ = hangups;
        std::future::pending::<()>().await;
    }
}
