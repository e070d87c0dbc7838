//! The HTTP door: is the process alive, is it ready, what does it measure.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200 while the process lives |
//! | `/readyz` | 200 when the broker serves; 503 and the reason while it starts or stops |
//! | `/metrics` | the broker's metrics, as OpenMetrics to who accepts it, else as Prometheus text; 503 before there is a broker |
//!
//! Invariants
//! - It answers from before the broker starts until after it has stopped, so that a long recovery can be watched.
//! - A client costs little, whatever it sends: headers must come within a time, bodies are not read, connections are limited.

mod serve;

pub use serve::serve;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::broker::Broker;
use crate::telemetry::Exposition;

/// What a scraper names that takes OpenMetrics; others get Prometheus' own text.
const OPEN_METRICS: &str = "application/openmetrics-text";

/// What the server's configuration says about this door.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpConfig {
    /// Host and port to listen on; port 0 is any free one.
    pub listen: String,
}

/// What the door reports on: the broker, once there is one, and whether the server stops. Cheap to clone, all clones are the same
/// one.
#[derive(Clone, Debug, Default)]
pub struct Subject(Arc<Reported>);

#[derive(Debug, Default)]
struct Reported {
    broker: OnceLock<Broker>,
    stopping: AtomicBool,
}

impl Subject {
    /// Names the broker; the first one stays.
    pub fn set(&self, broker: Broker) {
        // A second broker cannot come: a server has one.
        let _ = self.0.broker.set(broker);
    }

    /// Says that the server stops: it is not ready from here on, while it still finishes what is under way.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    fn broker(&self) -> Option<&Broker> {
        self.0.broker.get()
    }

    fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Acquire)
    }
}

/// Returns the paths and what answers them.
pub fn router(subject: Subject) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(|| async {
            (
                StatusCode::NOT_FOUND,
                "not found; the paths are /healthz, /readyz and /metrics\n",
            )
        })
        .with_state(subject)
}

async fn readyz(State(subject): State<Subject>) -> Response {
    match subject.broker() {
        Some(broker) if broker.is_ready() && !subject.is_stopping() => "ready\n".into_response(),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down\n").into_response(),
        None => starting(),
    }
}

async fn metrics(State(subject): State<Subject>, headers: HeaderMap) -> Response {
    let accepted = headers.get_all(header::ACCEPT).iter();
    let mut accepted = accepted.filter_map(|accept| accept.to_str().ok());
    let exposition = match accepted.any(|accept| accept.contains(OPEN_METRICS)) {
        true => Exposition::OpenMetrics,
        false => Exposition::Prometheus,
    };
    match subject.broker() {
        Some(broker) => (
            [(header::CONTENT_TYPE, exposition.media_type())],
            broker.metrics_text(exposition),
        )
            .into_response(),
        None => starting(),
    }
}

fn starting() -> Response {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "the server is starting: it opens and recovers its data directory\n",
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn before_there_is_a_broker_the_door_says_that_it_is_starting() {
        let subject = Subject::default();
        assert_eq!(
            readyz(State(subject.clone())).await.status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
        assert_eq!(
            metrics(State(subject), HeaderMap::new()).await.status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
}
