//! One service check: an OPTIONS of ours and its client transaction (RFC 3261 §11, §17.1.2). Of its timers only E runs,
//! for the pool says when it has waited long enough.

use std::net::SocketAddr;

use crate::clock::Time;
use crate::dns::NextHop;
use crate::engine::ports::{Env, Ports, Timer};
use crate::ids::{FlowRef, Transport};
use crate::server_pool::PingId;
use crate::sip::value::write_u32;
use crate::transaction::branch::TxnId;
use crate::transaction::{Branch, Effects, PlainClient, TimerOp};
use crate::wheel::TimerId;

#[derive(Debug)]
pub struct Check {
    pub id: PingId,
    pub to: NextHop,
    pub flow: FlowRef,
    /// Names it in its branch.
    nonce: u64,
    machine: PlainClient,
    pub bytes: Vec<u8>,
    timer: Option<TimerId>,
}

impl Check {
    /// One that is sent now, with its nonce.
    pub fn start(id: PingId, to: NextHop, flow: FlowRef, env: &Env, ports: &mut Ports, now: Time) -> (u64, Self) {
        let nonce = ports.rng.next();
        let bytes = write(flow, to.address, nonce, env, ports);
        let (machine, effects) = PlainClient::start(env.is_reliable(flow), env.times);
        let mut check = Self { id, to, flow, nonce, machine, bytes, timer: None };
        check.arm(effects, ports, now);
        (nonce, check)
    }

    /// Timer E. `true`: it is to be sent again.
    pub fn on_timer(&mut self, env: &Env, ports: &mut Ports, now: Time) -> bool {
        self.timer = None;
        let effects = self.machine.on_retransmit(env.times);
        self.arm(effects, ports, now);
        effects.resend.is_some()
    }

    fn arm(&mut self, effects: Effects, ports: &mut Ports, now: Time) {
        if let TimerOp::Arm(wait) = effects.retransmit {
            let at = now.after(wait);
            match self.timer {
                Some(timer) if ports.wheel.rearm(timer, at) => {}
                _ => self.timer = Some(ports.wheel.arm(at, Timer::Ping(self.nonce))),
            }
        }
    }

    pub fn has_timer(&self) -> bool {
        self.timer.is_some()
    }

    pub fn end(self, ports: &mut Ports) {
        if let Some(timer) = self.timer {
            ports.wheel.cancel(timer);
        }
    }
}

fn write(flow: FlowRef, address: SocketAddr, nonce: u64, env: &Env, ports: &mut Ports) -> Vec<u8> {
    let point = env.settings.point(flow.point());
    let transport = point.transport;
    let branch = Branch { shard: env.me(), txn: TxnId::NONE, nonce, loop_hash: 0 };
    let host = format!("{}:{}", point.advertised_host, point.advertised_port);
    let by = if transport == Transport::Udp { "" } else { transport.param_name() };
    let param = if by.is_empty() { String::new() } else { format!(";transport={by}") };
    let mut out =
        format!("OPTIONS sip:{address}{param} SIP/2.0\r\nVia: SIP/2.0/{} {host};branch=", transport.via_name())
            .into_bytes();
    branch.write(&mut out);
    let tag = ports.rng.next();
    out.extend_from_slice(
        format!(
            "\r\nMax-Forwards: 70\r\nFrom: <sip:{host}>;tag={tag:016x}\r\nTo: <sip:{address}>\r\nCall-ID: \
             {nonce:016x}@{}\r\nCSeq: 1 OPTIONS\r\nContact: <sip:{host}{param}>\r\nUser-Agent: Hawser\r\nContent-Length: ",
            point.advertised_host
        )
        .as_bytes(),
    );
    write_u32(0, &mut out);
    out.extend_from_slice(b"\r\n\r\n");
    out
}
