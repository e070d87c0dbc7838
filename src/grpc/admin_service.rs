//! `AdminService`: topics, their settings and holds, previews.

use std::path::Path;

use tonic::{Request, Response, Status};

use crate::broker::{Broker, ConfigChange, Error, Execution, NewTopic, TopicDescription, TopicSummary};
use crate::proto::v1;
use crate::proto::v1::admin_service_server::AdminService;
use crate::types::PartitionId;

use super::compaction::{self, Wish};
use super::observe::Call;
use super::retention;
use super::status::invalid;
use super::{Stopping, convert, pages};

/// The service; one for all connections.
#[derive(Clone, Debug)]
pub(super) struct AdminDoor {
    pub(super) broker: Broker,
    /// Held, not asked: the server's stop waits for it to go.
    pub(super) _stopping: Stopping,
}

impl AdminDoor {
    fn call(&self, method: &'static str) -> Call {
        Call::begin(self.broker.metrics(), method)
    }

    async fn create(&self, request: v1::CreateTopicRequest) -> Result<TopicDescription, Error> {
        let topic = NewTopic {
            name: request.name,
            partitions: request.partitions,
            config: request.config.into_iter().collect(),
        };
        self.broker
            .create_topic(topic, execution(request.validate_only))
            .await
    }

    async fn describe(&self, request: v1::DescribeTopicRequest) -> Result<v1::TopicDescription, Error> {
        let topic = convert::topic(&request.name)?;
        let first = convert::partition(request.first_partition)?;
        if request.for_writing {
            self.broker.ensure_topic(&topic).await?;
        }
        let described = self.broker.describe_topic(&topic)?;
        Ok(convert::topic_description(described, first))
    }

    async fn alter(&self, request: v1::AlterTopicRequest) -> Result<TopicDescription, Error> {
        let topic = convert::topic(&request.name)?;
        if let Some(both) = request.unset.iter().find(|name| request.set.contains_key(*name)) {
            return Err(invalid(format!(
                "setting {both} is both set and unset; name it once"
            )));
        }
        let change = ConfigChange {
            set: request.set.into_iter().collect(),
            unset: request.unset,
        };
        self.broker
            .alter_topic(&topic, change, execution(request.validate_only))
            .await
    }

    async fn hold(&self, request: v1::AddHoldRequest) -> Result<(), Error> {
        let topic = convert::topic(&request.topic)?;
        self.broker.add_hold(&topic, retention::hold(request.hold)?).await
    }

    async fn release(&self, request: v1::RemoveHoldRequest) -> Result<(), Error> {
        let topic = convert::topic(&request.topic)?;
        self.broker.remove_hold(&topic, &request.name).await
    }

    async fn adopt(&self, request: v1::AdoptPartitionRequest) -> Result<v1::AdoptPartitionResponse, Error> {
        let topic = convert::topic(&request.topic)?;
        let partition = convert::partition(request.partition)?;
        let directory = Path::new(&request.directory);
        if !directory.is_absolute() {
            return Err(invalid(format!(
                "directory {:?} is relative; name it from the root of the server's machine",
                request.directory
            )));
        }
        let adopted = self.broker.adopt_partition(directory, &topic, partition).await?;
        Ok(v1::AdoptPartitionResponse {
            log_start_offset: adopted.log_start.0,
            log_end_offset: adopted.log_end.0,
            segments: convert::count(adopted.segments),
            batches: convert::count(adopted.batches),
            records: convert::count(adopted.records),
            size_bytes: convert::count(adopted.size_bytes),
            dropped_tail_bytes: convert::count(adopted.dropped_tail_bytes),
            missing_offsets: convert::count(adopted.missing_offsets),
        })
    }
}

async fn compact(broker: &Broker, request: v1::CompactNowRequest) -> Result<v1::CompactNowResponse, Error> {
    let first = convert::partition(request.first_partition)?;
    let (wish, wait) = compaction::wish(request)?;
    let job = match wish {
        Wish::Begin(wish) => broker.compact_now(&wish, wait).await?,
        Wish::Ask(handle) => broker.compaction_job(handle, wait).await?,
    };
    Ok(compaction::told_job(job, first))
}

/// Tells of the topics, ascending by name, that are asked for and fit a response.
fn page_of_topics(topics: &[TopicSummary], request: &v1::ListTopicsRequest) -> v1::ListTopicsResponse {
    let wanted = topics
        .iter()
        .filter(|topic| request.include_internal || !topic.name.is_internal())
        .filter(|topic| topic.name.as_str() >= request.first_name.as_str());
    let (topics, left) = pages::page(wanted.map(convert::topic_summary), usize::MAX);
    v1::ListTopicsResponse {
        topics,
        next_name: left.map(|left| left.name),
    }
}

fn execution(validate_only: bool) -> Execution {
    match validate_only {
        true => Execution::ValidateOnly,
        false => Execution::Apply,
    }
}

fn told(topic: TopicDescription) -> Option<v1::TopicDescription> {
    Some(convert::topic_description(topic, PartitionId(0)))
}

#[tonic::async_trait]
impl AdminService for AdminDoor {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        let call = self.call("CreateTopic");
        let created = self.create(request.into_inner()).await;
        call.end(created.map(|topic| v1::CreateTopicResponse { topic: told(topic) }))
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        let call = self.call("ListTopics");
        let request = request.into_inner();
        call.end(Ok(page_of_topics(&self.broker.list_topics(), &request)))
    }

    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> Result<Response<v1::DescribeTopicResponse>, Status> {
        let call = self.call("DescribeTopic");
        let described = self.describe(request.into_inner()).await;
        call.end(described.map(|topic| v1::DescribeTopicResponse { topic: Some(topic) }))
    }

    async fn alter_topic(
        &self,
        request: Request<v1::AlterTopicRequest>,
    ) -> Result<Response<v1::AlterTopicResponse>, Status> {
        let call = self.call("AlterTopic");
        let altered = self.alter(request.into_inner()).await;
        call.end(altered.map(|topic| v1::AlterTopicResponse { topic: told(topic) }))
    }

    async fn add_partitions(
        &self,
        request: Request<v1::AddPartitionsRequest>,
    ) -> Result<Response<v1::AddPartitionsResponse>, Status> {
        let call = self.call("AddPartitions");
        let request = request.into_inner();
        let outcome = match convert::topic(&request.name) {
            Ok(topic) => self.broker.add_partitions(&topic, request.total).await,
            Err(error) => Err(error),
        };
        call.end(outcome.map(|topic| v1::AddPartitionsResponse { topic: told(topic) }))
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        let call = self.call("DeleteTopic");
        let outcome = match convert::topic(&request.into_inner().name) {
            Ok(topic) => self.broker.delete_topic(&topic).await,
            Err(error) => Err(error),
        };
        call.end(outcome.map(|()| v1::DeleteTopicResponse {}))
    }

    async fn compact_now(
        &self,
        request: Request<v1::CompactNowRequest>,
    ) -> Result<Response<v1::CompactNowResponse>, Status> {
        let call = self.call("CompactNow");
        call.end(compact(&self.broker, request.into_inner()).await)
    }

    async fn explain_compaction(
        &self,
        request: Request<v1::ExplainCompactionRequest>,
    ) -> Result<Response<v1::ExplainCompactionResponse>, Status> {
        let call = self.call("ExplainCompaction");
        call.end(compaction::explain(&self.broker, request.into_inner()))
    }

    async fn describe_log(
        &self,
        request: Request<v1::DescribeLogRequest>,
    ) -> Result<Response<v1::DescribeLogResponse>, Status> {
        let call = self.call("DescribeLog");
        call.end(compaction::describe(&self.broker, request.into_inner()))
    }

    async fn adopt_partition(
        &self,
        request: Request<v1::AdoptPartitionRequest>,
    ) -> Result<Response<v1::AdoptPartitionResponse>, Status> {
        let call = self.call("AdoptPartition");
        call.end(self.adopt(request.into_inner()).await)
    }

    async fn preview_retention(
        &self,
        request: Request<v1::PreviewRetentionRequest>,
    ) -> Result<Response<v1::PreviewRetentionResponse>, Status> {
        let call = self.call("PreviewRetention");
        call.end(retention::preview(&self.broker, request.into_inner()))
    }

    async fn add_hold(
        &self,
        request: Request<v1::AddHoldRequest>,
    ) -> Result<Response<v1::AddHoldResponse>, Status> {
        let call = self.call("AddHold");
        let added = self.hold(request.into_inner()).await;
        call.end(added.map(|()| v1::AddHoldResponse {}))
    }

    async fn list_holds(
        &self,
        request: Request<v1::ListHoldsRequest>,
    ) -> Result<Response<v1::ListHoldsResponse>, Status> {
        let call = self.call("ListHolds");
        let topic = convert::topic(&request.into_inner().topic);
        let holds = topic.and_then(|topic| self.broker.holds(&topic));
        call.end(holds.map(|holds| v1::ListHoldsResponse {
            holds: holds.into_iter().map(retention::told_hold).collect(),
        }))
    }

    async fn remove_hold(
        &self,
        request: Request<v1::RemoveHoldRequest>,
    ) -> Result<Response<v1::RemoveHoldResponse>, Status> {
        let call = self.call("RemoveHold");
        let removed = self.release(request.into_inner()).await;
        call.end(removed.map(|()| v1::RemoveHoldResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::grpc::MAX_RESPONSE_BYTES;
    use crate::types::{TopicId, TopicName};

    #[test]
    fn a_list_of_very_many_topics_comes_in_pages_that_each_fit_and_are_all_of_them() {
        let topic = |name: String| TopicSummary {
            name: TopicName::new(&name).unwrap(),
            id: TopicId([7; 16]),
            partitions: 1,
        };
        let user = (0..20_000).map(|number| topic(format!("{number:0>249}")));
        let topics: Vec<_> = user.chain([topic("__own".to_owned())]).collect();
        for (include_internal, count) in [(false, 20_000), (true, 20_001)] {
            let (mut names, mut next, mut pages) = (Vec::new(), Some(String::new()), 0);
            while let Some(first_name) = next {
                let request = v1::ListTopicsRequest {
                    include_internal,
                    first_name,
                };
                let page = page_of_topics(&topics, &request);
                assert!(page.encoded_len() < MAX_RESPONSE_BYTES);
                names.extend(page.topics.into_iter().map(|topic| topic.name));
                next = page.next_name;
                pages += 1;
            }
            let all = topics.iter().map(|topic| topic.name.as_str()).take(count);
            assert!(names.iter().map(String::as_str).eq(all));
            assert_eq!(pages, 3);
        }
    }
}
