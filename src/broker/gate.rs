//! The gate: who may still begin something, and when all who began are done.
//!
//! Every piece of work holds a [`Pass`] while it runs; an append keeps its own until it is acknowledged. Stopping closes the
//! gate for newcomers and waits for the passes to come back. There is no way from stopping to open again.
//!
//! Ordering: `enter` counts itself before it looks at the phase, `stop` sets the phase before it looks at the count. So
//! either the newcomer sees the closed gate, or the stopper sees the newcomer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

use super::Error;

/// What the broker is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Serving.
    Open,
    /// Refusing new work, finishing what is under way.
    Stopping,
    /// Background tasks end.
    Closed,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Gate {
    active: AtomicUsize,
    refusing: AtomicBool,
    phase: watch::Sender<Phase>,
    idle: Notify,
}

/// Held by work under way.
#[derive(Debug)]
pub(super) struct Pass(Arc<Gate>);

impl Gate {
    /// Makes an open gate.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            active: AtomicUsize::new(0),
            refusing: AtomicBool::new(false),
            phase: watch::Sender::new(Phase::Open),
            idle: Notify::new(),
        })
    }

    /// Lets work begin.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`] once the broker stops.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Pass, Error> {
        self.active.fetch_add(1, Ordering::SeqCst);
        let pass = Pass(Arc::clone(self));
        if self.refusing.load(Ordering::SeqCst) {
            Err(Error::ShuttingDown)
        } else {
            Ok(pass)
        }
    }

    /// True until the broker stops.
    pub(super) fn is_open(&self) -> bool {
        !self.refusing.load(Ordering::SeqCst)
    }

    /// Refuses newcomers from now on. Returns whether this call was the first.
    pub(super) fn stop(&self) -> bool {
        let first = !self.refusing.swap(true, Ordering::SeqCst);
        if first {
            self.phase.send_replace(Phase::Stopping);
        }
        first
    }

    /// Ends the background tasks.
    pub(super) fn close(&self) {
        self.refusing.store(true, Ordering::SeqCst);
        self.phase.send_replace(Phase::Closed);
    }

    /// Completes when no pass is out.
    pub(super) async fn drained(&self) {
        loop {
            let idle = self.idle.notified();
            if self.active.load(Ordering::SeqCst) == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Completes when the broker begins to stop.
    pub(super) fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut phase = self.phase.subscribe();
        async move {
            // An error means that the gate is gone, and the broker with it.
            let _ = phase.wait_for(|phase| *phase != Phase::Open).await;
        }
    }

    /// Completes when background tasks are to end.
    pub(super) fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut phase = self.phase.subscribe();
        async move {
            let _ = phase.wait_for(|phase| *phase == Phase::Closed).await;
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.0.active.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::tests::poll_once;

    #[tokio::test]
    async fn stopping_waits_for_those_inside_and_refuses_newcomers() {
        let gate = Gate::new();
        let inside = gate.enter().expect("open");
        assert!(gate.stop() && !gate.stop());
        assert!(matches!(gate.enter(), Err(Error::ShuttingDown)));
        gate.stopping().await;

        let mut drained = std::pin::pin!(gate.drained());
        assert!(poll_once(drained.as_mut()).await.is_pending());
        drop(inside);
        drained.await;
    }

    #[tokio::test]
    async fn a_refused_newcomer_does_not_keep_the_gate_busy() {
        let gate = Gate::new();
        gate.stop();
        drop(gate.enter());
        gate.drained().await;
    }
}
