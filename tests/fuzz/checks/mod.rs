//! What must hold of everything that reads a stranger's bytes, whatever the bytes: a function for each target, which
//! panics when something does not hold. libfuzzer calls them (`fuzz_targets`), and so does an ordinary test (`main.rs`).
//!
//! | target | reads | what holds |
//! | --- | --- | --- |
//! | [`framer`] | a stream in any chunks | the chunks change nothing; scanner and framer agree; bodies byte for byte |
//! | [`message`] | a message | accessors stay inside; what is forwarded is read back, and is a fixed point; so are answers |
//! | [`uri`] | two URIs | spans stay inside; equivalence is symmetric; the AOR is canonical |
//! | [`name_addr`] | header values | lists fall into their values; what is cut goes and nothing else |
//! | [`token`] | flow tokens | none is authentic but what the key has made, in its dialog |
//! | [`route_set`] | an endpoint's request | nobody but servers, and its dialog's partner, is its target |
//! | [`register`] | a REGISTER and its 2xx | no two Contacts share a binding; the phone gets its own Contacts back |
//! | [`dns`] | resolvers' answers | targets are what was asked for; each waiter hears once; strangers are not heard |
//! | [`proxy_header`] | a balancer's header in any chunks | the chunks change nothing; no byte too many is asked for |
//! | [`client_hello`] | a first TLS record | what rustls reads of it is what is said of it |
//! | [`settings`] | a configuration text | a fault on one line that names a line of the text, or a stable configuration |
//! | [`http`] | a request line and head | nothing changes but by POST of our own; what goes on is clean |
//! | [`engine`] | what strangers send to a shard | the phone that is bound hears nothing, stays bound, and nobody else is sent anything |
//!
//! None may take time that grows faster than its input: libfuzzer's `-timeout` and the test's long inputs would stand.

pub mod client_hello;
pub mod dns;
pub mod engine;
pub mod framer;
pub mod http;
pub mod message;
pub mod name_addr;
mod parts;
mod place;
pub mod proxy_header;
pub mod register;
pub mod route_set;
pub mod settings;
pub mod token;
pub mod uri;
