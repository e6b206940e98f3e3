//! How phones are found again: keyed hashes, flow tokens, the connection table, and the part of the
//! directory that one home shard holds (DESIGN.md, Words and "The token").
//!
//! All of it is pure: keys and the present are arguments.

#[cfg(test)]
mod cost;
pub mod directory;
mod forgotten;
pub mod keys;
pub mod recognise;
pub mod table;
pub mod token;
