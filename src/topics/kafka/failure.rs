//! What an error of librdkafka or of a broker means: its kind, and how to mend it.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tailwater_api::{Error, ErrorKind};

/// The error that `cause` amounts to while doing `doing`.
pub(super) fn failed(doing: impl Into<String>, cause: KafkaError) -> Error {
    let code = cause.rdkafka_error_code();
    let error = Error::new(code.map_or(ErrorKind::Misconfigured, kind), doing).because(cause);
    match code.and_then(remedy) {
        Some(mend) => error.mend(mend),
        None => error,
    }
}

/// The error of a message that was not delivered.
pub(super) fn undelivered(topic: &str, code: RDKafkaErrorCode) -> Error {
    failed(format!("write to the topic {topic}"), KafkaError::MessageProduction(code))
}

fn kind(code: RDKafkaErrorCode) -> ErrorKind {
    use RDKafkaErrorCode as Code;
    match code {
        Code::MessageTimedOut | Code::OperationTimedOut | Code::RequestTimedOut | Code::TimedOutQueue => ErrorKind::TimedOut,
        Code::ThrottlingQuotaExceeded => ErrorKind::Throttled,
        Code::CoordinatorLoadInProgress
        | Code::RebalanceInProgress
        | Code::ReassignmentInProgress
        | Code::UnknownMemberId
        | Code::IllegalGeneration
        | Code::StaleMemberEpoch
        | Code::AssignmentLost
        | Code::PollExceeded
        // A batch before was not delivered; the log is written anew from what is durable.
        | Code::GaplessGuarantee
        | Code::PurgeQueue
        | Code::PurgeInflight
        | Code::OutOfOrderSequenceNumber
        | Code::UnknownProducerId => ErrorKind::Restarting,
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::SSL
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::DelegationTokenAuthorizationFailed
        | Code::DelegationTokenExpired
        | Code::SecurityDisabled => ErrorKind::Unauthorised,
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::UnknownTopicId | Code::GroupIdNotFound => {
            ErrorKind::Missing
        }
        Code::Fenced
        | Code::ProducerFenced
        | Code::InvalidProducerEpoch
        | Code::FencedInstanceId
        | Code::FencedMemberEpoch
        | Code::TransactionCoordinatorFenced
        | Code::ConcurrentTransactions => ErrorKind::Conflict,
        Code::InvalidTopic
        | Code::InvalidConfig
        | Code::InvalidArgument
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidReplicaAssignment
        | Code::InvalidRequiredAcks
        | Code::InvalidGroupId
        | Code::InvalidSessionTimeout
        | Code::InvalidTransactionTimeout
        | Code::InconsistentGroupProtocol
        | Code::PolicyViolation
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::UnsupportedCompressionType => ErrorKind::Misconfigured,
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize | Code::InvalidRecord | Code::InvalidTimestamp => {
            ErrorKind::Rejected
        }
        Code::OffsetOutOfRange | Code::AutoOffsetReset | Code::LogTruncation => ErrorKind::HistoryGone,
        Code::BadMessage | Code::BadCompression | Code::InvalidMessage => ErrorKind::Unreadable,
        // Leader changes, brokers that go and come, and codes of brokers that are newer than this table: trying again is what helps, or
        // at least what loses nothing.
        _ => ErrorKind::Unreachable,
    }
}

fn remedy(code: RDKafkaErrorCode) -> Option<&'static str> {
    use RDKafkaErrorCode as Code;
    Some(match code {
        Code::Authentication | Code::SaslAuthenticationFailed => {
            "check sasl.mechanism and sasl.jaas.config (or sasl.username and sasl.password) in topics.kafka"
        }
        Code::SSL => "check security.protocol and the ssl.* keys in topics.kafka against the broker's listener",
        Code::TopicAuthorizationFailed => {
            "kafka-acls.sh --bootstrap-server SERVER --add --allow-principal User:NAME --operation Read --operation Write --operation Create \
             --operation Describe --topic TOPIC"
        }
        Code::GroupAuthorizationFailed => {
            "kafka-acls.sh --bootstrap-server SERVER --add --allow-principal User:NAME --operation Read --group GROUP"
        }
        Code::ClusterAuthorizationFailed => {
            "kafka-acls.sh --bootstrap-server SERVER --add --allow-principal User:NAME --operation IdempotentWrite --cluster"
        }
        Code::TransactionalIdAuthorizationFailed => {
            "kafka-acls.sh --bootstrap-server SERVER --add --allow-principal User:NAME --operation Write --operation Describe \
             --transactional-id ID"
        }
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownTopicId => {
            "make the topic (kafka-topics.sh --create), or let Tailwater make it: topic.creation.enable=true in the worker file"
        }
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => {
            "raise max.message.bytes of the topic (kafka-configs.sh --alter --add-config), and with it producer.override.max.request.size"
        }
        Code::InvalidReplicationFactor => "lower topic.creation.default.replication.factor to the number of brokers",
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend => {
            "start the brokers that are missing, or lower min.insync.replicas of the topic"
        }
        Code::Resolve | Code::BrokerTransportFailure | Code::AllBrokersDown => {
            "check topics.kafka bootstrap.servers and that the brokers run"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_brokers_have_kinds_and_remedies() {
        for (code, kind, word) in [
            (RDKafkaErrorCode::UnknownTopicOrPartition, ErrorKind::Missing, "kafka-topics.sh"),
            (RDKafkaErrorCode::MessageSizeTooLarge, ErrorKind::Rejected, "max.message.bytes"),
            (RDKafkaErrorCode::TopicAuthorizationFailed, ErrorKind::Unauthorised, "kafka-acls.sh"),
            (RDKafkaErrorCode::AllBrokersDown, ErrorKind::Unreachable, "bootstrap.servers"),
            (RDKafkaErrorCode::NotEnoughReplicas, ErrorKind::Unreachable, "min.insync.replicas"),
            (RDKafkaErrorCode::SaslAuthenticationFailed, ErrorKind::Unauthorised, "sasl.mechanism"),
        ] {
            let error = undelivered("orders", code);
            assert_eq!(error.kind(), kind, "{code:?}");
            assert!(error.remedy().is_some_and(|mend| mend.contains(word)), "{code:?}: {:?}", error.remedy());
            assert!(error.to_string().starts_with("cannot write to the topic orders"), "{error}");
        }
        for (code, kind) in [
            (RDKafkaErrorCode::MessageTimedOut, ErrorKind::TimedOut),
            (RDKafkaErrorCode::ThrottlingQuotaExceeded, ErrorKind::Throttled),
            (RDKafkaErrorCode::ProducerFenced, ErrorKind::Conflict),
            (RDKafkaErrorCode::OffsetOutOfRange, ErrorKind::HistoryGone),
            (RDKafkaErrorCode::NotLeaderForPartition, ErrorKind::Unreachable),
        ] {
            assert_eq!(undelivered("orders", code).kind(), kind, "{code:?}");
        }
    }
}
