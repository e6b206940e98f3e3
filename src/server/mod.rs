//! See DESIGN.md, Layers.
