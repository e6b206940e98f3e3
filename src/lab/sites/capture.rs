//! What goes over the wire: every frame of the loopback interface to or from the ports of a scenario, searched for SIP
//! in the clear.
//!
//! Owns: the packet socket and its thread. Must not touch: the scenario. It takes CAP_NET_RAW.

use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const BUFFER_LEN: usize = 64 * 1024 * 1024;
const WAIT: Duration = Duration::from_millis(100);
const ETHERNET_LEN: usize = 14;
const SIP: &[u8] = b"SIP/2.0";

/// What has been seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Frames with something in them.
    pub frames: u64,
    pub bytes: u64,
    /// Frames that begin with the head of a TLS record.
    pub tls: u64,
    /// Frames with SIP that anybody can read.
    pub clear: u64,
}

/// A capture that runs.
pub struct Capture {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Capture {
    /// # Errors
    /// The packet socket is not granted.
    pub fn start(ports: Range<u16>) -> io::Result<Self> {
        let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let mut socket = Socket::new(Domain::PACKET, Type::RAW, Some(all))?;
        // With less it may lose frames, none of which would be in the clear if the others are not.
        socket.set_recv_buffer_size(BUFFER_LEN).ok();
        socket.set_read_timeout(Some(WAIT))?;
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            let mut frame = vec![0; 128 * 1024];
            let mut end = None;
            loop {
                // What was under way when the end was told counts; others may go on talking for ever.
                if told.load(Ordering::Relaxed) && Instant::now() >= *end.get_or_insert_with(|| Instant::now() + WAIT) {
                    return seen;
                }
                if let Ok(len) = socket.read(&mut frame) {
                    seen.look(&frame[..len], &ports);
                }
            }
        });
        Ok(Self { is_over, thread })
    }

    /// Ends it once the wire is quiet.
    pub fn stop(self) -> Seen {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

impl Seen {
    fn look(&mut self, frame: &[u8], ports: &Range<u16>) {
        let Some(payload) = payload(frame, ports).filter(|payload| !payload.is_empty()) else { return };
        self.frames += 1;
        self.bytes += payload.len() as u64;
        self.tls += u64::from(matches!(payload, [0x14..=0x17, 0x03, ..]));
        self.clear += u64::from(memchr::memmem::find(payload, SIP).is_some());
    }
}

/// What a TCP segment or UDP datagram over IPv4 carries, when one of its ports is wanted.
fn payload<'a>(frame: &'a [u8], ports: &Range<u16>) -> Option<&'a [u8]> {
    let packet = frame.get(ETHERNET_LEN..).filter(|packet| packet.first().is_some_and(|byte| byte >> 4 == 4))?;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let segment = packet.get(usize::from(packet[0] & 15) * 4..total)?;
    let port = |at: usize| Some(u16::from_be_bytes([*segment.get(at)?, *segment.get(at + 1)?]));
    if !(ports.contains(&port(0)?) || ports.contains(&port(2)?)) {
        return None;
    }
    match i32::from(*packet.get(9)?) {
        libc::IPPROTO_TCP => segment.get(usize::from(segment.get(12)? >> 4) * 4..),
        libc::IPPROTO_UDP => segment.get(8..),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TCP segment in its frame, from port 5061.
    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; ETHERNET_LEN];
        let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 127, 0, 1, 1, 127, 0, 2, 1];
        ip[2..4].copy_from_slice(&(40 + payload.len() as u16).to_be_bytes());
        let mut tcp = vec![0; 20];
        tcp[..2].copy_from_slice(&5_061_u16.to_be_bytes());
        tcp[12] = 5 << 4;
        frame.extend([ip, tcp, payload.to_vec()].concat());
        frame
    }

    #[test]
    fn sip_in_the_clear_is_seen_and_tls_is_told_apart() {
        let mut seen = Seen::default();
        seen.look(&frame(b"\x17\x03\x03\0\x05hello"), &(5_060..5_062));
        seen.look(&frame(b"INVITE sip:a SIP/2.0\r\n"), &(5_060..5_062));
        seen.look(&frame(b""), &(5_060..5_062));
        seen.look(&frame(b"SIP/2.0 200 OK"), &(6_000..6_001));
        assert_eq!(seen, Seen { frames: 2, bytes: 32, tls: 1, clear: 1 });
    }
}
