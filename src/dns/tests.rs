//! The resolver under virtual time, with answers made by hand.

mod world;

mod hostile;
mod keeping;
mod resolvers;
mod services;
mod simple;
