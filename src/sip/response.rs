//! Responses of our own (RFC 3261 §8.2.6, §16.7).
