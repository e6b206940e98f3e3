//! See DESIGN.md, Layers.

pub mod engine;
