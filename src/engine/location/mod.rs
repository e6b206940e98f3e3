//! Where phones are: flows, bindings, and who waits for one to come back.

mod notice;

pub use notice::Notice;
