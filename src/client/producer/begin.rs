//! What a producer asks before its first record: the topic's partitions and limits, and an id of its own.
//!
//! Invariants
//! - What a retry may mend is tried again for as long as a record may stay unacknowledged: a server that restarts while a
//!   load begins costs time, not the load.
//! - Asking twice does no harm: nothing is written, and an id whose answer was lost is used by nobody.
//!
//! What is not here: the first connection, which is the client's and made before.

use tokio::time::{sleep, timeout};

use super::{Acks, ProducerIdentity, ProducerOptions};
use crate::client::{Client, Error, TopicDescription};
use crate::proto::v1;
use crate::types::{ProducerEpoch, ProducerId, TopicName};

/// What the server said.
pub(super) struct Beginning {
    pub(super) topic: TopicDescription,
    /// Absent where nothing is acknowledged, and so nothing is sent twice.
    pub(super) producer: Option<ProducerIdentity>,
}

impl Client {
    /// Asks until it is answered, within the delivery timeout.
    pub(super) async fn begin(
        &self,
        topic: &TopicName,
        options: &ProducerOptions,
    ) -> Result<Beginning, Error> {
        let waited = options.delivery_timeout;
        let mut last_error = None;
        let asking = self.ask_until_answered(topic, options.acks, &mut last_error);
        if let Ok(answered) = timeout(waited, asking).await {
            return answered;
        }
        Err(Error::BeginTimeout {
            topic: topic.clone(),
            waited,
            last_error: last_error.map_or_else(|| "no answer".to_owned(), |error| error.to_string()),
        })
    }

    async fn ask_until_answered(
        &self,
        topic: &TopicName,
        acks: Acks,
        last_error: &mut Option<Error>,
    ) -> Result<Beginning, Error> {
        let mut attempt = 0;
        loop {
            let error = match self.ask(topic, acks).await {
                Ok(beginning) => return Ok(beginning),
                Err(error) => error,
            };
            let Some(delay) = error.retry_delay(attempt) else {
                return Err(error);
            };
            tracing::debug!(%topic, %error, ?delay, "a producer could not begin, asking again");
            *last_error = Some(error);
            sleep(delay).await;
            attempt = attempt.saturating_add(1);
        }
    }

    async fn ask(&self, topic: &TopicName, acks: Acks) -> Result<Beginning, Error> {
        Ok(Beginning {
            topic: self.topic_to_write(topic).await?,
            producer: match acks {
                Acks::None => None,
                Acks::All | Acks::Leader => Some(self.init_producer().await?),
            },
        })
    }

    async fn init_producer(&self) -> Result<ProducerIdentity, Error> {
        let response = self
            .answer(self.log().init_producer(v1::InitProducerRequest {}))
            .await?;
        let epoch = i16::try_from(response.producer_epoch)
            .map_err(|_| self.protocol_error("a producer epoch is beyond 16 bits"))?;
        Ok(ProducerIdentity {
            id: ProducerId(response.producer_id),
            epoch: ProducerEpoch(epoch),
        })
    }
}
