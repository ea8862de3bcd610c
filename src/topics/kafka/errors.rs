//! What Kafka's and librdkafka's errors mean here.
//!
//! Codes from 0 up are the broker's (Kafka protocol, `org.apache.kafka.common.protocol.Errors`), those below are
//! librdkafka's own (2.12, `rd_kafka_resp_err_t`). The kind decides what happens next: what a leader election, a restart or a
//! slow network mends is transient and tried again, the rest waits for a human with the remedy at hand.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tailwater_api::{Error, ErrorKind};

/// The error of what was being done (verb and object).
pub fn failed(doing: impl Into<String>, error: &KafkaError) -> Error {
    match error.rdkafka_error_code().or_else(|| code_inside(error)) {
        Some(code) => failed_with_code(doing, code),
        None => match error {
            // Neither its value nor the sentence about it: they may hold a secret (I14).
            KafkaError::ClientConfig(_, _, name, _) => {
                Error::new(ErrorKind::Misconfigured, doing).because(format!("librdkafka refuses the value of {name}"))
            }
            KafkaError::ClientCreation(why) => Error::new(ErrorKind::Misconfigured, doing).because(why.clone()),
            KafkaError::AdminOpCreation(why) | KafkaError::Subscription(why) => {
                Error::new(ErrorKind::Misconfigured, doing).because(why.clone())
            }
            KafkaError::PauseResume(why) | KafkaError::Seek(why) => Error::new(ErrorKind::Unreachable, doing).because(why.clone()),
            KafkaError::Canceled | KafkaError::NoMessageReceived | KafkaError::PartitionEOF(_) | KafkaError::Nul(_) => {
                Error::new(ErrorKind::Bug, doing).because(error.clone())
            }
            // The enumeration may grow; all of today's are named here or carry a code.
            other => Error::new(ErrorKind::Unreachable, doing).because(other.clone()),
        },
    }
}

/// The error of a connection that no further try mends: wrong credentials, or a certificate that is missing or not trusted. All
/// else, such as a handshake that a stopping broker broke off, is none.
pub fn refused(doing: &str, error: &KafkaError, reason: &str) -> Option<Error> {
    use RDKafkaErrorCode as Code;
    let code = match error.rdkafka_error_code()? {
        code @ (Code::Authentication | Code::SaslAuthenticationFailed) => code,
        // TLS 1.3 lets a client know that its certificate is missing when the connection is made already.
        Code::SSL | Code::BrokerTransportFailure if reason.contains("certificate") => Code::SSL,
        _ => return None,
    };
    let refused = Error::new(kind(code), doing).because(reason.to_owned());
    Some(match remedy(code) {
        Some(mend) => refused.mend(mend),
        None => refused,
    })
}

/// As [`failed`], where only the code is known.
pub fn failed_with_code(doing: impl Into<String>, code: RDKafkaErrorCode) -> Error {
    let error = Error::new(kind(code), doing).because(code);
    match remedy(code) {
        Some(mend) => error.mend(mend),
        None => error,
    }
}

/// The code that the crate does not hand out by itself.
fn code_inside(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        _ => None,
    }
}

/// The kind of every code.
pub fn kind(code: RDKafkaErrorCode) -> ErrorKind {
    use RDKafkaErrorCode as Code;
    match code {
        Code::Fail
        | Code::BrokerTransportFailure
        | Code::Resolve
        | Code::AllBrokersDown
        | Code::UnknownBroker
        | Code::NetworkException
        | Code::BrokerNotAvailable
        | Code::ReplicaNotAvailable
        | Code::ListenerNotFound
        | Code::RebootstrapRequired
        | Code::Unknown => ErrorKind::Unreachable,

        Code::MessageTimedOut | Code::OperationTimedOut | Code::RequestTimedOut | Code::TimedOutQueue => ErrorKind::TimedOut,

        Code::QueueFull | Code::ThrottlingQuotaExceeded => ErrorKind::Throttled,

        // A leader, a coordinator or a controller is changing, or a group is being balanced.
        Code::BrokerDestroy
        | Code::DestroyBroker
        | Code::NodeUpdate
        | Code::WaitingForCoordinator
        | Code::InProgress
        | Code::PreviousInProgress
        | Code::WaitCache
        | Code::Interrupted
        | Code::Retry
        | Code::PurgeQueue
        | Code::PurgeInflight
        | Code::Outdated
        | Code::Partial
        | Code::ISRInsufficient
        | Code::AssignmentLost
        | Code::AssignPartitions
        | Code::RevokePartitions
        | Code::PollExceeded
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::StaleControllerEpoch
        | Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::RebalanceInProgress
        | Code::NotController
        | Code::ConcurrentTransactions
        | Code::OperationNotAttempted
        | Code::KafkaStorageError
        | Code::LogDirNotFound
        | Code::ReassignmentInProgress
        | Code::FetchSessionIdNotFound
        | Code::InvalidFetchSessionEpoch
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch
        | Code::StaleBrokerEpoch
        | Code::OffsetNotAvailable
        | Code::MemberIdRequired
        | Code::PreferredLeaderNotAvailable
        | Code::EligibleLeadersNotAvailable
        | Code::ElectionNotNeeded
        | Code::NoReassignmentInProgress
        | Code::UnstableOffsetCommit
        | Code::InconsistentVoterSet
        | Code::FencedMemberEpoch
        | Code::StaleMemberEpoch
        | Code::UnknownSubscriptionId
        | Code::UnknownTopicId => ErrorKind::Restarting,

        Code::SSL
        | Code::Authentication
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::DelegationTokenAuthorizationFailed
        | Code::DelegationTokenAuthDisabled
        | Code::DelegationTokenNotFound
        | Code::DelegationTokenOwnerMismatch
        | Code::DelegationTokenRequestNotAllowed
        | Code::DelegationTokenExpired
        | Code::SaslAuthenticationFailed
        | Code::IllegalSASLState
        | Code::SecurityDisabled
        | Code::UnacceptableCredential
        | Code::PrincipalDeserializationFailure => ErrorKind::Unauthorised,

        Code::UnknownPartition
        | Code::UnknownTopic
        | Code::UnknownGroup
        | Code::UnknownTopicOrPartition
        | Code::GroupIdNotFound
        | Code::ResourceNotFound
        | Code::NoEnt => ErrorKind::Missing,

        // Somebody else took over: another producer of the same transactional id, another member of the same name.
        Code::Fenced
        | Code::ProducerFenced
        | Code::InvalidProducerEpoch
        | Code::TransactionCoordinatorFenced
        | Code::FencedInstanceId
        | Code::UnreleasedInstanceId
        | Code::TopicAlreadyExists
        | Code::NonEmptyGroup
        | Code::GroupSubscribedToTopic
        | Code::DuplicateResource
        | Code::GroupMaxSizeReached
        | Code::Conflict
        | Code::InconsistentGroupProtocol => ErrorKind::Conflict,

        Code::InvalidArgument
        | Code::UnknownProtocol
        | Code::NotConfigured
        | Code::FileSystem
        | Code::CriticalSystemResource
        | Code::InvalidTopic
        | Code::InvalidRequiredAcks
        | Code::InvalidGroupId
        | Code::InvalidSessionTimeout
        | Code::UnsupportedSASLMechanism
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidReplicaAssignment
        | Code::InvalidConfig
        | Code::PolicyViolation
        | Code::InvalidTransactionTimeout
        | Code::InvalidPrincipalType
        | Code::TopicDeletionDisabled
        | Code::FeatureUpdateFailed
        | Code::InvalidUpdateVersion
        | Code::UnsupportedAssignor
        | Code::ReadOnly => ErrorKind::Misconfigured,

        Code::OffsetOutOfRange | Code::AutoOffsetReset | Code::LogTruncation | Code::NoOffset => ErrorKind::HistoryGone,

        Code::BadMessage
        | Code::BadCompression
        | Code::InvalidMessage
        | Code::InvalidMessageSize
        | Code::Underflow
        | Code::KeyDeserialization
        | Code::ValueDeserialization => ErrorKind::Unreadable,

        Code::NotImplemented
        | Code::UnsupportedFeature
        | Code::UnsupportedVersion
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedCompressionType => ErrorKind::Unsupported,

        Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::InvalidTimestamp
        | Code::InvalidRecord
        | Code::OffsetMetadataTooLarge
        | Code::InvalidCommitOffsetSize
        | Code::TelemetryTooLarge => ErrorKind::Rejected,

        // The idempotent producer lost its thread: a new one starts from the last stored position, so nothing is lost.
        Code::OutOfOrderSequenceNumber
        | Code::DuplicateSequenceNumber
        | Code::UnknownProducerId
        | Code::InvalidProducerIdMapping
        | Code::InvalidTransactionalState
        | Code::GaplessGuarantee
        | Code::Fatal
        | Code::Inconsistent => ErrorKind::Restarting,

        Code::Begin
        | Code::End
        | Code::EndAll
        | Code::NoError
        | Code::PartitionEOF
        | Code::ExistingSubscription
        | Code::State
        | Code::KeySerialization
        | Code::ValueSerialization
        | Code::InvalidType
        | Code::Application
        | Code::Noop
        | Code::InvalidDifferentRecord
        | Code::InvalidRequest => ErrorKind::Bug,

        // The enumeration may grow; a code that is younger than this list is tried again, with its name on show.
        _ => ErrorKind::Unreachable,
    }
}

/// What mends the errors that need a human.
fn remedy(code: RDKafkaErrorCode) -> Option<&'static str> {
    use RDKafkaErrorCode as Code;
    Some(match code {
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => {
            "raise max.message.bytes of the topic (kafka-configs.sh --alter --topic NAME --add-config max.message.bytes=BYTES) \
             and producer.override.max.request.size of the connector; where that is no larger than what the topic takes, errors.tolerance \
             decides about such records before they are sent"
        }
        Code::TopicAuthorizationFailed => {
            "kafka-acls.sh --add --allow-principal User:NAME --topic TOPIC --operation Read --operation Write --operation Describe --operation Create"
        }
        Code::GroupAuthorizationFailed => "kafka-acls.sh --add --allow-principal User:NAME --group GROUP --operation Read",
        Code::ClusterAuthorizationFailed => {
            "kafka-acls.sh --add --allow-principal User:NAME --cluster --operation Create --operation IdempotentWrite"
        }
        Code::TransactionalIdAuthorizationFailed => {
            "kafka-acls.sh --add --allow-principal User:NAME --transactional-id PREFIX --resource-pattern-type prefixed \
             --operation Write --operation Describe"
        }
        Code::Authentication | Code::SaslAuthenticationFailed => {
            "see that sasl.mechanism and sasl.jaas.config are those of a user of the broker"
        }
        Code::UnsupportedSASLMechanism => "set sasl.mechanism to one of the broker's sasl.enabled.mechanisms",
        Code::SSL => {
            "see that ssl.truststore.location holds the authority of the broker's certificate, that ssl.keystore.location holds one that the \
             broker trusts where it asks for one, and that security.protocol is that of the broker's port"
        }
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
            "create the topic (kafka-topics.sh --create --topic NAME), or let the connector do it with topic.creation.default.partitions \
             and topic.creation.default.replication.factor"
        }
        Code::InvalidReplicationFactor => {
            "set the replication factor to no more than the number of brokers: topic.creation.default.replication.factor of the connector, \
             for the worker's own topics config.storage., offset.storage. and status.storage.replication.factor of the worker file"
        }
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend => {
            "bring the other brokers back, or lower min.insync.replicas of the topic"
        }
        Code::OffsetOutOfRange | Code::AutoOffsetReset | Code::LogTruncation => {
            "records were deleted before they were read: raise retention.ms or retention.bytes of the topic, and take a new snapshot, \
             or set the offsets of the connector (PATCH /connectors/NAME/offsets)"
        }
        Code::ProducerFenced | Code::InvalidProducerEpoch | Code::Fenced | Code::TransactionCoordinatorFenced => {
            "stop the other worker that runs this task; the younger one holds the transactional id"
        }
        Code::PolicyViolation => "ask who runs the brokers for the policy (create.topic.policy.class.name, alter.config.policy.class.name)",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaConfRes;

    use super::*;

    #[test]
    fn an_error_has_kind_cause_and_remedy() {
        let error = failed("write to topic t", &KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge));
        assert_eq!(error.kind(), ErrorKind::Rejected);
        assert!(error.to_string().starts_with("cannot write to topic t: "), "{error}");
        assert!(error.remedy().is_some_and(|mend| mend.contains("max.message.bytes")));
    }

    #[test]
    fn faults_of_the_broker_that_pass_are_transient() {
        use RDKafkaErrorCode as Code;
        for code in [
            Code::BrokerTransportFailure,
            Code::AllBrokersDown,
            Code::MessageTimedOut,
            Code::NotLeaderForPartition,
            Code::NotEnoughReplicas,
            Code::CoordinatorNotAvailable,
            Code::ThrottlingQuotaExceeded,
            Code::RebalanceInProgress,
        ] {
            assert!(kind(code).is_transient(), "{code:?}");
        }
    }

    #[test]
    fn what_a_human_must_mend_says_how() {
        use RDKafkaErrorCode as Code;
        for (code, expected) in [
            (Code::UnknownTopicOrPartition, ErrorKind::Missing),
            (Code::TopicAuthorizationFailed, ErrorKind::Unauthorised),
            (Code::GroupAuthorizationFailed, ErrorKind::Unauthorised),
            (Code::ClusterAuthorizationFailed, ErrorKind::Unauthorised),
            (Code::SaslAuthenticationFailed, ErrorKind::Unauthorised),
            (Code::SSL, ErrorKind::Unauthorised),
            (Code::ProducerFenced, ErrorKind::Conflict),
            (Code::OffsetOutOfRange, ErrorKind::HistoryGone),
            (Code::InvalidReplicationFactor, ErrorKind::Misconfigured),
            (Code::PolicyViolation, ErrorKind::Misconfigured),
        ] {
            let error = failed("do it", &KafkaError::AdminOp(code));
            assert_eq!(error.kind(), expected, "{code:?}");
            assert!(error.remedy().is_some(), "{code:?}");
        }
    }

    #[test]
    fn only_a_refusal_that_lasts_ends_a_connection() {
        use RDKafkaErrorCode as Code;
        let refused = |code, reason| refused("connect", &KafkaError::Global(code), reason);
        assert!(refused(Code::Authentication, "invalid password").is_some_and(|error| error.kind() == ErrorKind::Unauthorised));
        assert!(refused(Code::SSL, "certificate verify failed").is_some_and(|error| error.kind() == ErrorKind::Unauthorised));
        assert!(refused(Code::SSL, "SSL handshake failed: Disconnected").is_none());
        assert!(refused(Code::BrokerTransportFailure, "Connection refused").is_none());
    }

    // I14
    #[test]
    fn a_refused_setting_is_named_without_its_value() {
        let refused =
            KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_INVALID, "canary".into(), "sasl.password".into(), "canary".into());
        let error = failed("connect to Kafka", &refused);
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        assert!(error.to_string().contains("sasl.password") && !error.to_string().contains("canary"), "{error}");
    }
}
