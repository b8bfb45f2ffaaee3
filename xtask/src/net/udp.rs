//! Datagrams to a program that sends them back. The headers are written and
//! read here by the book, so that they do not repeat a mistake of the stack
//! that the program has.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Throughput;
use super::cable::{Cable, End};

/// Our addresses.
const MAC: [u8; 6] = [0x02, 0, 0, 0, 1, 1];
const IP: [u8; 4] = [10, 0, 0, 1];
const PORT: u16 = 40000;

const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
const UDP: u8 = 17;
/// Ethernet, IPv4 (RFC 791) and UDP (RFC 768) headers.
const ETHERNET: usize = 14;
const HEADERS: usize = ETHERNET + 20 + 8;
/// Payloads: a number at least, a full frame at most.
const SHORTEST: usize = 18;
const LONGEST: usize = 1472;
/// Datagrams on their way.
const WINDOW: u64 = 48;

/// Sends datagrams and expects each back, in order.
#[derive(Clone, Copy, Debug)]
pub struct Echo {
    ip: [u8; 4],
    port: u16,
    datagrams: u64,
    patience: Duration,
}

impl Echo {
    /// `datagrams` datagrams to `port` of the program at `ip`, both in
    /// 10.0.0.0/24.
    #[must_use]
    pub fn new(ip: [u8; 4], port: u16, datagrams: u64) -> Self {
        Self {
            ip,
            port,
            datagrams,
            patience: Duration::from_secs(60),
        }
    }

    /// Runs it over the cable of the program's card.
    ///
    /// # Errors
    /// A datagram is lost, late, out of order, or anything in it is wrong.
    pub fn run(self, cable: &Cable) -> Result<Throughput> {
        let mut end = cable.end()?;
        let started = Instant::now();
        let mac = self.resolve(&mut end)?;
        let (mut sent, mut received, mut bytes) = (0, 0, 0);
        while received < self.datagrams {
            while sent < self.datagrams && sent - received < WINDOW {
                let there = Route {
                    macs: [mac, MAC],
                    ips: [self.ip, IP],
                    ports: [self.port, PORT],
                };
                end.put(&datagram(&there, &payload(sent)));
                sent += 1;
            }
            end.flush()?;
            let mut next = Some(self.frame(&mut end, received)?);
            // All that is there, before more is sent.
            while let Some(frame) = next {
                if let Some(answer) = arp_answer(&frame) {
                    end.put(&answer);
                } else {
                    let back = Route {
                        macs: [MAC, mac],
                        ips: [IP, self.ip],
                        ports: [PORT, self.port],
                    };
                    check(&frame, &back, &payload(received))
                        .with_context(|| format!("datagram {received}"))?;
                    bytes += frame.len() as u64;
                    received += 1;
                }
                next = end.take()?.map(<[u8]>::to_vec);
            }
        }
        Ok(Throughput {
            frames: received,
            bytes,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Asks who has the program's address (RFC 826).
    fn resolve(&self, end: &mut End) -> Result<[u8; 6]> {
        end.put(&arp(1, [0xff; 6], [0; 6], self.ip));
        end.flush()?;
        loop {
            let frame = self.frame(end, 0)?;
            let answer = frame.get(12..14) == Some(&ARP) && frame.get(20..22) == Some(&[0, 2]);
            if answer && frame.get(28..32) == Some(&self.ip) {
                ensure!(
                    frame.get(..6) == Some(&MAC),
                    "an ARP answer to somebody else"
                );
                let sender = frame.get(22..28).unwrap_or_default();
                return Ok(sender.try_into()?);
            }
        }
    }

    /// The next frame.
    fn frame(&self, end: &mut End, number: u64) -> Result<Vec<u8>> {
        loop {
            if let Some(frame) = end.take()? {
                return Ok(frame.to_vec());
            }
            if !end.fill(self.patience)? {
                let patience = self.patience.as_secs();
                bail!("no answer to datagram {number} within {patience} s");
            }
        }
    }
}

/// To and from whom.
struct Route {
    macs: [[u8; 6]; 2],
    ips: [[u8; 4]; 2],
    ports: [u16; 2],
}

fn payload(number: u64) -> Vec<u8> {
    let sizes = (LONGEST - SHORTEST + 1) as u64;
    let length = SHORTEST + usize::try_from(number * 619 % sizes).unwrap_or(0);
    let filling = (0_u64..).map(|at| (at * 7 + number * 13).to_le_bytes()[0]);
    let start = number.to_be_bytes().into_iter();
    start.chain(filling).take(length).collect()
}

fn datagram(route: &Route, payload: &[u8]) -> Vec<u8> {
    let udp_length = u16::try_from(payload.len() + 8).unwrap_or(0);
    let mut frame = Vec::with_capacity(HEADERS + payload.len());
    frame.extend_from_slice(&route.macs.concat());
    frame.extend_from_slice(&IPV4);
    // Version 4, 20 bytes; total length; identification, fragment; 64 hops,
    // UDP; check sum.
    frame.extend_from_slice(&[0x45, 0]);
    frame.extend_from_slice(&(udp_length + 20).to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0x40, 0, 64, UDP, 0, 0]);
    frame.extend_from_slice(&[route.ips[1], route.ips[0]].concat());
    let sum = !checksum(&[&frame[ETHERNET..]]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend_from_slice(&route.ports[1].to_be_bytes());
    frame.extend_from_slice(&route.ports[0].to_be_bytes());
    frame.extend_from_slice(&udp_length.to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(payload);
    let sum = match !udp_sum(&frame) {
        0 => u16::MAX,
        sum => sum,
    };
    frame[40..42].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The sum over pseudo-header, header and payload; all ones if the check sum
/// in it is right.
fn udp_sum(frame: &[u8]) -> u16 {
    let udp = frame.get(34..).unwrap_or_default();
    let length = u16::try_from(udp.len()).unwrap_or(0).to_be_bytes();
    let addresses = frame.get(26..34).unwrap_or_default();
    checksum(&[addresses, &[0, UDP], &length, udp])
}

/// The one's complement sum (RFC 1071); each part but the last has an even
/// length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let pairs = parts.iter().flat_map(|part| part.chunks(2));
    let sum = pairs.fold(0_u32, |sum, pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        let sum = sum + u32::from(u16::from_be_bytes([pair[0], low]));
        (sum & 0xffff) + (sum >> 16)
    });
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Whether `frame` is this datagram.
fn check(frame: &[u8], route: &Route, payload: &[u8]) -> Result<()> {
    let length = HEADERS + payload.len();
    // A short frame may have been padded.
    let padded = length.max(60);
    ensure!(
        frame.len() == length || frame.len() == padded,
        "{} bytes came back, expected {length}",
        frame.len()
    );
    let frame = &frame[..length];
    ensure!(
        frame[..12] == route.macs.concat(),
        "wrong Ethernet addresses"
    );
    ensure!(frame[12..14] == IPV4 && frame[14] == 0x45, "no plain IPv4");
    let total = u16::from_be_bytes([frame[16], frame[17]]);
    ensure!(
        usize::from(total) == length - ETHERNET,
        "wrong IP length {total}"
    );
    ensure!(frame[23] == UDP, "protocol {}, not UDP", frame[23]);
    ensure!(
        checksum(&[&frame[14..34]]) == u16::MAX,
        "wrong IP check sum"
    );
    let addresses = [route.ips[1], route.ips[0]].concat();
    ensure!(frame[26..34] == addresses, "wrong IP addresses");
    let ports = [route.ports[1].to_be_bytes(), route.ports[0].to_be_bytes()].concat();
    ensure!(frame[34..38] == ports, "wrong ports");
    let udp = u16::from_be_bytes([frame[38], frame[39]]);
    ensure!(
        usize::from(udp) == payload.len() + 8,
        "wrong UDP length {udp}"
    );
    ensure!(udp_sum(frame) == u16::MAX, "wrong UDP check sum");
    let wrong = frame[HEADERS..]
        .iter()
        .zip(payload)
        .position(|(a, b)| a != b);
    ensure!(wrong.is_none(), "byte {wrong:?} of the payload is wrong");
    Ok(())
}

/// An ARP packet from us: operation 1 asks, 2 answers.
fn arp(operation: u8, to: [u8; 6], target: [u8; 6], ip: [u8; 4]) -> Vec<u8> {
    let mut frame = [to, MAC].concat();
    frame.extend_from_slice(&ARP);
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend_from_slice(&MAC);
    frame.extend_from_slice(&IP);
    frame.extend_from_slice(&target);
    frame.extend_from_slice(&ip);
    frame.resize(60, 0);
    frame
}

/// The answer if `frame` asks for our address.
fn arp_answer(frame: &[u8]) -> Option<Vec<u8>> {
    let asks = frame.get(12..14)? == ARP && frame.get(20..22)? == [0, 1];
    if !asks || frame.get(38..42)? != IP {
        return None;
    }
    let sender = frame.get(22..28)?.try_into().ok()?;
    let ip = frame.get(28..32)?.try_into().ok()?;
    Some(arp(2, sender, sender, ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Route {
        Route {
            macs: [MAC, [2; 6]],
            ips: [IP, [10, 0, 0, 2]],
            ports: [PORT, 7],
        }
    }

    #[test]
    fn check_sums_as_others_compute_them() {
        // RFC 1071, section 3.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&[&bytes]), 0xddf2);
        // Odd: a zero is added.
        assert_eq!(checksum(&[&bytes[..2], &[0xf2]]), 0xf201);
    }

    #[test]
    fn every_wrong_byte_is_found() {
        for number in [0, 1, 2, 500] {
            let payload = payload(number);
            let right = datagram(&route(), &payload);
            check(&right, &route(), &payload).unwrap();
            // But type of service, identification and hops, whose change the
            // IP check sum shows: all of them.
            for at in 0..right.len() {
                let mut wrong = right.clone();
                wrong[at] ^= 0x10;
                assert!(check(&wrong, &route(), &payload).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn who_asks_for_us_is_answered() {
        let mut asks = arp(1, [0xff; 6], [0; 6], IP);
        asks[22..32].copy_from_slice(&[2, 2, 2, 2, 2, 2, 10, 0, 0, 2]);
        let answer = arp_answer(&asks).unwrap();
        assert_eq!(answer[..6], [2; 6]);
        assert_eq!(answer[38..42], [10, 0, 0, 2]);
        assert_eq!(arp_answer(&answer), None);
        assert_eq!(arp_answer(&asks[..30]), None);
    }
}
