//! What goes wrong on purpose: an owner's sockets are shut, or its cable is cut.
//!
//! Owns: doing it and undoing it. Must not touch: what others make of it.
//!
//! A cut cable is silent in the kernel too: a socket filter drops every packet before TCP sees it, so that
//! nothing is acknowledged, no connection is refused and no port is reported as closed; and nothing is sent. The
//! other end learns of it by waiting. (A process that is stopped is something else: its kernel still answers.)

use super::Net;
use mio::event::Source;
use socket2::{SockFilter, SockRef};
use std::io;

/// `BPF_RET | BPF_K`: the filter's verdict is the constant, here to keep no byte.
const RETURN_CONSTANT: u16 = 0x06;

impl Net {
    /// Ends every connection of the owner with a reset and takes its listeners and datagram sockets away: the
    /// kernel refuses whoever comes from now on.
    pub fn shut(&mut self, owner: u32) {
        let slots: Vec<usize> =
            self.conns.iter().filter(|(_, conn)| conn.owner == owner).map(|(slot, _)| slot).collect();
        for slot in slots {
            self.reset(slot);
        }
        let registry = self.poll.registry();
        self.listeners.retain(|_, listener| {
            if listener.owner == owner {
                // The descriptor is closed right after; a failure to take it out of epoll changes nothing.
                listener.socket.deregister(registry).ok();
            }
            listener.owner != owner
        });
        self.udp.retain(|_, end| {
            if end.owner == owner {
                // As above.
                end.socket.deregister(registry).ok();
            }
            end.owner != owner
        });
    }

    /// Cuts the owner's cable.
    ///
    /// # Errors
    /// A socket that takes no filter.
    pub fn cut(&mut self, owner: u32) -> io::Result<()> {
        self.each_socket(owner, |socket| socket.attach_filter(&[SockFilter::new(RETURN_CONSTANT, 0, 0, 0)]))?;
        if !self.cut.contains(&owner) {
            self.cut.push(owner);
        }
        Ok(())
    }

    /// Plugs the cable in again; what waited is sent, to whoever still listens.
    ///
    /// # Errors
    /// A socket that gives its filter not back.
    pub fn mend(&mut self, owner: u32) -> io::Result<()> {
        if !self.cut.contains(&owner) {
            return Ok(());
        }
        self.cut.retain(|&cut| cut != owner);
        self.each_socket(owner, |socket| socket.detach_filter())?;
        for (slot, conn) in &mut self.conns {
            if conn.owner == owner && !conn.is_dirty {
                conn.is_dirty = true;
                self.dirty.push(slot);
            }
        }
        Ok(())
    }

    fn each_socket(&self, owner: u32, act: impl Fn(SockRef<'_>) -> io::Result<()>) -> io::Result<()> {
        for end in self.udp.values().filter(|end| end.owner == owner) {
            act(SockRef::from(&end.socket))?;
        }
        for (_, listener) in self.listeners.iter().filter(|(_, listener)| listener.owner == owner) {
            act(SockRef::from(&listener.socket))?;
        }
        for (_, conn) in self.conns.iter().filter(|(_, conn)| conn.owner == owner) {
            act(SockRef::from(&conn.stream))?;
        }
        Ok(())
    }
}
