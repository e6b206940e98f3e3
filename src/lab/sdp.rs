//! The session description that every INVITE and 200 of the lab carries; nobody reads it.

/// About 300 bytes, as a phone with two codecs would send.
pub const BODY: &[u8] = b"v=0\r\no=lab 2890844526 2890844526 IN IP4 192.0.2.101\r\ns=call\r\nc=IN IP4 192.0.2.101\r\n\
t=0 0\r\nm=audio 49172 RTP/AVP 0 8 18 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n\
a=rtpmap:18 G729/8000\r\na=fmtp:18 annexb=no\r\na=rtpmap:101 telephone-event/8000\r\n\
a=fmtp:101 0-16\r\na=ptime:20\r\na=sendrecv\r\n";
