//! Faults that a test plants, to see that it would find them: a simulator that finds nothing may only be blind.
//!
//! Without the feature `planted-faults`, which nothing but `scripts/sim --planted` sets, none of this is compiled in:
//! [`planted`] is a constant `false`.

/// One planted fault, named for what goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Plant {
    /// Another shard is sent mail, and not woken.
    LostWake = 1,
    /// A slot that is used again is taken for the connection that had it before.
    GenerationUnchecked,
    /// A response goes to the shard behind the one that its branch names.
    ResponseToWrongShard,
    /// A flow is taken as it is, and not asked where its binding has gone.
    FlowNotAskedForBinding,
    /// New work has one more place in a mailbox than it may.
    QueueOneTooLong,
    /// A timer that is stopped fires all the same.
    TimerNotStopped,
    /// Any MAC is good.
    MacNotCompared,
    /// A Record-Route token is a target outside of its dialog too.
    HijackByRoute,
    /// The ACK to an error of one server goes to its partner.
    AckToWrongServer,
    /// A connection that is gone still counts for its source.
    ShareNotCounted,
    /// What a read has left of a TLS record is dropped.
    PartRecordDropped,
    /// A final answer over UDP is not sent again.
    AnswerNotRepeated,
    /// A repeated request is taken for a new one.
    RepetitionNotAbsorbed,
    /// Whoever sends a response is believed.
    AnswerFromAnybody,
    /// A CANCEL is never sent on.
    CancelNotSent,
    /// Our two Record-Route values stand in the wrong order.
    RecordRouteSwapped,
    /// A 100 of the next hop is passed on.
    TryingPassedOn,
    /// A server's 503 is passed on although its partner lives.
    UnavailablePassedOn,
    /// No answer of ours says when to try again.
    RetryAfterNotWritten,
    /// A phone that has other flows is refused as one that has none.
    OutboundIgnored,
    /// An ACK to a connection of another shard is dropped.
    AckToOtherShardDropped,
    /// X-Genesys-Route goes on.
    OwnHeaderLeft,
    /// An alias of ours stands in the Request-URI that the phone gets.
    AliasLeft,
    /// Within a dialog nobody waits for a phone to come back.
    GraceIgnored,
    /// No provisional response is passed on after the 100.
    RingingDropped,
    /// An answer to who has asked over a connection of another shard is dropped.
    ChallengeToOtherShardDropped,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::LostWake,
        Self::GenerationUnchecked,
        Self::ResponseToWrongShard,
        Self::FlowNotAskedForBinding,
        Self::QueueOneTooLong,
        Self::TimerNotStopped,
        Self::MacNotCompared,
        Self::HijackByRoute,
        Self::AckToWrongServer,
        Self::ShareNotCounted,
        Self::PartRecordDropped,
        Self::AnswerNotRepeated,
        Self::RepetitionNotAbsorbed,
        Self::AnswerFromAnybody,
        Self::CancelNotSent,
        Self::RecordRouteSwapped,
        Self::TryingPassedOn,
        Self::UnavailablePassedOn,
        Self::RetryAfterNotWritten,
        Self::OutboundIgnored,
        Self::AckToOtherShardDropped,
        Self::OwnHeaderLeft,
        Self::AliasLeft,
        Self::GraceIgnored,
        Self::RingingDropped,
        Self::ChallengeToOtherShardDropped,
    ];
}

#[cfg(feature = "planted-faults")]
static NOW: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants a fault in this process, in place of the one before.
#[cfg(feature = "planted-faults")]
pub fn plant(fault: Option<Plant>) {
    NOW.store(fault.map_or(0, |fault| fault as u8), std::sync::atomic::Ordering::SeqCst);
}

/// Whether this one is planted.
#[cfg(feature = "planted-faults")]
pub(crate) fn planted(fault: Plant) -> bool {
    NOW.load(std::sync::atomic::Ordering::Relaxed) == fault as u8
}

/// Never.
#[cfg(not(feature = "planted-faults"))]
#[inline(always)]
pub(crate) const fn planted(_: Plant) -> bool {
    false
}
