//! Sends every UDP datagram back to its sender, with smoltcp above the
//! partition's first network card. Answers ARP.
//!
//! Arguments: `ip` (its address, default 10.0.0.2; the network has 24 bits),
//! `port` (default 7), `datagrams` (ends after so many, default 0: never),
//! `flags` (dataplane flags, joined with `+`, default strict+populate as far as
//! the system file allows them), `cpuid` (executes CPUID once after so many
//! datagrams, default 0: never: to show that one exit is seen), `report`
//! (statistics after so many, default 0: at the end alone), `channel` (the
//! channel through which they are sent as well).
//!
//! Exit codes: 0 done, 1 the dataplane mode was refused, 2 bad arguments, 3 no
//! card.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use core::net::Ipv4Addr;

use cloister_net::report::Reporter;
use cloister_net::stack::Link;
use cloister_net::{Card, Nic, Pool};
use cloister_runtime::cpu::{cpuid, rdtsc};
use cloister_runtime::{Dataplane, Partition, args, console, dma, entry, println, set_dataplane};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet, SocketStorage};
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, Socket};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

entry!(main);

const BUFFERS: usize = 1024;
/// Datagrams that wait in the socket, each way, and their bytes.
const WAITING: usize = 64;
const WAITING_BYTES: usize = 128 << 10;
/// Longest datagram (RFC 768 in a frame of 1514 bytes).
const LONGEST: usize = 1472;
/// TSC frequency where nobody knows it: it only ages the ARP cache.
const SOME_HZ: u64 = 1_000_000_000;

/// What the arguments say.
struct Options {
    ip: Ipv4Addr,
    port: u16,
    datagrams: u64,
    flags: Dataplane,
    cpuid: u64,
}

fn main(partition: &Partition) -> u64 {
    let Some(options) = options(partition) else {
        return 2;
    };
    let mut reporter = match Reporter::open(partition) {
        Ok(reporter) => reporter,
        Err(error) => {
            println!("udp-echo: {error}");
            return 2;
        }
    };
    let Some(mut link) = open(partition) else {
        return 3;
    };
    let mut metadata = [[PacketMetadata::EMPTY; WAITING]; 2];
    let [received, sent] = &mut metadata;
    let bytes = || dma::numbers::<u8>(WAITING_BYTES, 0);
    let (Some(received_bytes), Some(sent_bytes)) = (bytes(), bytes()) else {
        println!("udp-echo: too little memory: give the partition 16M");
        return 3;
    };
    let mut socket = Socket::new(
        PacketBuffer::new(&mut received[..], received_bytes),
        PacketBuffer::new(&mut sent[..], sent_bytes),
    );
    if let Err(error) = socket.bind(options.port) {
        println!("udp-echo: port {}: {error:?}", options.port);
        return 2;
    }
    let mut storage = [SocketStorage::EMPTY];
    let mut sockets = SocketSet::new(&mut storage[..]);
    let handle = sockets.add(socket);
    let interface = interface(&options, &mut link);

    println!("udp-echo: ready");
    console::flush();
    if !options.flags.is_empty()
        && let Err(error) = set_dataplane(options.flags)
    {
        println!("udp-echo: set_dataplane({:?}): {error}", options.flags);
        return 1;
    }
    let clock = Clock(partition.tsc_hz().unwrap_or(SOME_HZ));
    let mut service = Service {
        link,
        interface,
        sockets,
        handle,
        datagrams: 0,
        busy: 0,
    };
    service.serve(&options, &clock, &mut reporter);
    service.report(&mut reporter);
    0
}

fn options(partition: &Partition) -> Option<Options> {
    let number = |key, default| {
        partition
            .number(key, default)
            .inspect_err(|error| println!("udp-echo: {key}: {error}"))
            .ok()
    };
    let ip = partition.arg("ip").unwrap_or("10.0.0.2");
    let Ok(ip) = ip.parse() else {
        println!("udp-echo: ip: `{ip}` is no IPv4 address");
        return None;
    };
    let port = number("port", 7)?;
    let Ok(port) = u16::try_from(port) else {
        println!("udp-echo: port: {port} is over 65535");
        return None;
    };
    let flags = match partition.arg("flags") {
        None => (Dataplane::STRICT | Dataplane::POPULATE) & partition.allowed(),
        Some(text) => args::flags(text).or_else(|| {
            println!("udp-echo: flags: `{text}` are no dataplane flags");
            None
        })?,
    };
    Some(Options {
        ip,
        port,
        datagrams: number("datagrams", 0)?,
        flags,
        cpuid: number("cpuid", 0)?,
    })
}

/// Opens the partition's first device.
fn open(partition: &Partition) -> Option<Link<Card>> {
    let Some(device) = partition.devices().next() else {
        println!("udp-echo: a network card is needed: list it under `devices`");
        return None;
    };
    let Some(mut pool) = Pool::new(BUFFERS) else {
        println!("udp-echo: too little memory: give the partition 16M");
        return None;
    };
    match cloister_net::open(device, &mut pool) {
        Ok(card) => {
            println!("udp-echo: {} at {:#x}", card.mac(), device.info().address);
            Some(Link::new(card, pool))
        }
        Err(error) => {
            println!("udp-echo: device {:#x}: {error}", device.info().address);
            None
        }
    }
}

fn interface(options: &Options, link: &mut Link<Card>) -> Interface {
    let address = EthernetAddress(link.nic().mac().0);
    let mut config = Config::new(HardwareAddress::Ethernet(address));
    config.random_seed = rdtsc();
    let mut interface = Interface::new(config, link, Instant::ZERO);
    interface.update_ip_addrs(|addresses| {
        // There is room for one.
        let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(options.ip), 24));
    });
    interface
}

/// The time-stamp counter as a clock; its frequency in Hz.
struct Clock(u64);

impl Clock {
    fn now(&self) -> Instant {
        let millis = rdtsc() / (self.0 / 1000).max(1);
        Instant::from_millis(i64::try_from(millis).unwrap_or(0))
    }
}

/// The program while it runs.
struct Service<'a> {
    link: Link<Card>,
    interface: Interface,
    sockets: SocketSet<'a>,
    handle: SocketHandle,
    /// Sent back so far.
    datagrams: u64,
    /// TSC cycles of the rounds that had something to do.
    busy: u64,
}

impl Service<'_> {
    /// Until as many datagrams went back as the arguments say.
    fn serve(&mut self, options: &Options, clock: &Clock, reporter: &mut Reporter) {
        let mut datagram = [0; LONGEST];
        loop {
            let (started, before) = (rdtsc(), self.datagrams);
            let polled = self
                .interface
                .poll(clock.now(), &mut self.link, &mut self.sockets);
            let socket = self.sockets.get_mut::<Socket<'_>>(self.handle);
            while socket.can_send() {
                let Ok((length, metadata)) = socket.recv_slice(&mut datagram) else {
                    break;
                };
                let sent = datagram.get(..length).unwrap_or_default();
                if socket.send_slice(sent, metadata.endpoint).is_ok() {
                    self.datagrams += 1;
                }
            }
            self.link.flush();
            let datagrams = self.datagrams;
            if polled == PollResult::SocketStateChanged || datagrams != before {
                self.busy += rdtsc().wrapping_sub(started);
            } else if options.datagrams != 0
                && datagrams >= options.datagrams
                && self.link.is_idle()
            {
                return;
            } else {
                core::hint::spin_loop();
            }
            if options.cpuid != 0 && before < options.cpuid && datagrams >= options.cpuid {
                let _ = cpuid(0, 0);
            }
            if reporter.due(datagrams) {
                self.report(reporter);
            }
        }
    }

    fn report(&self, reporter: &mut Reporter) {
        let counters = self.link.counters();
        reporter.send(
            "udp-echo",
            format_args!(
                "datagrams={} frames-in={} frames-out={} bad={} cycles-per-datagram={}",
                self.datagrams,
                counters.received,
                counters.sent,
                self.link.nic().bad(),
                self.busy.checked_div(self.datagrams).unwrap_or(0)
            ),
        );
    }
}
