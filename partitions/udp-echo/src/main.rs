//! Sends every UDP datagram back to its sender, with smoltcp above the
//! partition's first network card. Answers ARP.
//!
//! Arguments: `ip` (its address, default 10.0.0.2; the network has 24 bits),
//! `port` (default 7), `datagrams` (ends after so many, default 0: never),
//! `flags` (dataplane flags, joined with `+`, default strict+populate as far as
//! the system file allows them), `cpuid` (executes CPUID once after so many
//! datagrams, default 0: never: to show that one exit is seen).
//!
//! Exit codes: 0 done, 1 the dataplane mode was refused, 2 bad arguments, 3 no
//! card.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use core::net::Ipv4Addr;
use core::sync::atomic::Ordering::Relaxed;

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
    let mut interface = interface(&options, &mut link);

    println!("udp-echo: ready");
    console::flush();
    if !options.flags.is_empty()
        && let Err(error) = set_dataplane(options.flags)
    {
        println!("udp-echo: set_dataplane({:?}): {error}", options.flags);
        return 1;
    }
    let clock = Clock(partition.tsc_hz().unwrap_or(SOME_HZ));
    let (datagrams, busy) = serve(
        &options,
        &clock,
        &mut link,
        &mut interface,
        &mut sockets,
        handle,
    );
    let counters = partition.own_counters();
    println!(
        "udp-echo: datagrams={datagrams} frames-in={} frames-out={} bad={} cycles-per-datagram={}",
        link.counters().received,
        link.counters().sent,
        link.nic().bad(),
        busy.checked_div(datagrams).unwrap_or(0)
    );
    println!(
        "udp-echo: since_quiesce={} interrupts={}",
        counters.since_quiesce.load(Relaxed),
        counters.interrupts_since_quiesce.load(Relaxed)
    );
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

/// Until as many datagrams went back as the arguments say; how many, and the
/// TSC cycles of the rounds that had something to do.
fn serve(
    options: &Options,
    clock: &Clock,
    link: &mut Link<Card>,
    interface: &mut Interface,
    sockets: &mut SocketSet<'_>,
    handle: SocketHandle,
) -> (u64, u64) {
    let (mut datagrams, mut busy) = (0, 0);
    let mut datagram = [0; LONGEST];
    loop {
        let started = rdtsc();
        let polled = interface.poll(clock.now(), link, sockets);
        let before = datagrams;
        let socket = sockets.get_mut::<Socket<'_>>(handle);
        while socket.can_send() {
            let Ok((length, metadata)) = socket.recv_slice(&mut datagram) else {
                break;
            };
            let sent = datagram.get(..length).unwrap_or_default();
            if socket.send_slice(sent, metadata.endpoint).is_ok() {
                datagrams += 1;
            }
        }
        link.flush();
        if polled == PollResult::SocketStateChanged || datagrams != before {
            busy += rdtsc().wrapping_sub(started);
        } else if options.datagrams != 0 && datagrams >= options.datagrams && link.is_idle() {
            return (datagrams, busy);
        } else {
            core::hint::spin_loop();
        }
        if options.cpuid != 0 && before < options.cpuid && datagrams >= options.cpuid {
            let _ = cpuid(0, 0);
        }
    }
}
