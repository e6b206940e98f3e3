//! What shards say to each other of bindings and flows: changes, which none may miss, and the question where one is.

use std::time::Duration;

use crate::clock::Time;
use crate::ids::{BindingId, FlowRef};

/// A change of the directory, or of what a flow carries. Never dropped: a full mailbox keeps its place.
#[derive(Debug)]
pub enum Notice {
    /// Home to owner: your flow has this binding now.
    Bound {
        /// The flow.
        flow: FlowRef,
        /// The binding.
        binding: BindingId,
        /// Until when.
        until: Time,
    },
    /// Home to owner: this binding has moved from your flow to another.
    Moved {
        /// The flow that it had.
        flow: FlowRef,
        /// The binding.
        binding: BindingId,
        /// The flow that it has.
        to: FlowRef,
    },
    /// Home to owner: your flow has lost this binding (expired, or taken back).
    Unbound {
        /// The flow.
        flow: FlowRef,
        /// The binding.
        binding: BindingId,
    },
    /// Owner to home: the flow of this binding is gone.
    FlowGone {
        /// The flow.
        flow: FlowRef,
        /// The binding.
        binding: BindingId,
    },
    /// To the home of a Contact's user part: this Contact leads to that binding, whose home is elsewhere.
    PutContact {
        /// Keyed hash of the canonical Contact URI.
        contact: u64,
        /// The binding.
        binding: BindingId,
        /// When it ends unless it is refreshed.
        until: Time,
    },
    /// To the home of a Contact's user part: no room is left to keep it. Until this time it is no device's.
    ForgetContact {
        /// Keyed hash of the canonical Contact URI.
        contact: u64,
        /// When the registration would have expired.
        until: Time,
    },
    /// The reverse of `PutContact`.
    DropContact {
        /// Keyed hash of the canonical Contact URI.
        contact: u64,
        /// The binding.
        binding: BindingId,
    },
}

/// Where is a binding?
#[derive(Clone, Copy, Debug)]
pub struct Whereabouts {
    /// Which binding.
    pub binding: BindingId,
    /// A flow that is known to be gone.
    pub not: Option<FlowRef>,
    /// How long to wait for the phone to come back.
    pub wait: Duration,
}
