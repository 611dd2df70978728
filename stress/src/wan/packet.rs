//! What a device hands over: one IPv4 packet, or many TCP or UDP segments of one connection in one
//! super-packet, behind a virtio header that says which.
//!
//! ```text
//!   | virtio 10 | IP 20.. | TCP 20.. | payload: segment, segment, ..., a shorter one |
//!                ^^^^ on a real wire each segment has these headers for itself ^^^^
//! ```
//!
//! A super-packet crosses the emulator whole. Only where some of its segments are lost is it cut
//! up, into packets of the segments between them. Checksums of what programs send are partial (the
//! sum of the pseudo header), as the virtio header tells the receiving kernel.

use std::net::Ipv4Addr;
use std::ops::Range;

use tun_rs::VIRTIO_NET_HDR_LEN;

/// Types of super-packets in the virtio header's second byte, where ECN marks may be added.
const GSO_NONE: u8 = 0;
const GSO_TCP: u8 = 1;
const GSO_UDP: u8 = 5;
const GSO_ECN: u8 = 0x80;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// TCP flags that belong to the last segment (FIN, PSH) and to the first (CWR).
const OF_LAST: u8 = 0x01 | 0x08;
const OF_FIRST: u8 = 0x80;

/// A packet with its virtio header.
pub(super) struct Packet {
    /// May be longer than the packet.
    buffer: Vec<u8>,
    len: usize,
    parts: Parts,
}

/// Where the parts of a packet are.
#[derive(Clone, Copy)]
struct Parts {
    destination: Ipv4Addr,
    ip_header: usize,
    /// Bytes of IP and transport headers, which each segment has on a wire.
    headers: usize,
    /// Payload bytes of each segment but the last; 0 for what is no super-packet.
    segment: usize,
}

impl Parts {
    fn of(bytes: &[u8]) -> Option<Self> {
        let (virtio, ip) = bytes.split_at_checked(VIRTIO_NET_HDR_LEN)?;
        let gso_size = usize::from(u16::from_ne_bytes([virtio[4], virtio[5]]));
        let ip_header = match ip.first()? {
            first if first >> 4 == 4 => usize::from(first & 15) * 4,
            _ => return None,
        };
        let destination: [u8; 4] = ip.get(16..20)?.try_into().ok()?;
        let transport = ip.get(ip_header..)?;
        let (headers, segment) = match virtio[1] & !GSO_ECN {
            GSO_NONE => (ip_header, 0),
            GSO_TCP => {
                let header = usize::from(transport.get(12)? >> 4) * 4;
                (ip_header + header.max(20), gso_size)
            }
            GSO_UDP => (ip_header + 8, gso_size),
            _ => return None,
        };
        (ip_header >= 20 && ip.len() >= headers).then_some(Self {
            destination: destination.into(),
            ip_header,
            headers,
            segment,
        })
    }
}

impl Packet {
    /// The first `len` bytes of the buffer. Gives it back for what is not IPv4, or not what it
    /// says it is.
    pub(super) fn parse(buffer: Vec<u8>, len: usize) -> Result<Self, Vec<u8>> {
        match buffer.get(..len).and_then(Parts::of) {
            Some(parts) => Ok(Self { buffer, len, parts }),
            None => Err(buffer),
        }
    }

    pub(super) fn destination(&self) -> Ipv4Addr {
        self.parts.destination
    }

    /// As the device takes it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// For another packet.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    fn payload(&self) -> usize {
        self.len - VIRTIO_NET_HDR_LEN - self.parts.headers
    }

    /// How many packets this is on a wire; at least one.
    pub(super) fn segments(&self) -> usize {
        match self.parts.segment {
            0 => 1,
            segment => self.payload().div_ceil(segment).max(1),
        }
    }

    /// Bytes of IP packets on a wire for the first so many segments.
    pub(super) fn wire_bytes(&self, segments: usize) -> u64 {
        let payload = match self.parts.segment {
            0 => self.payload(),
            segment => self.payload().min(segments * segment),
        };
        (payload + segments * self.parts.headers) as u64
    }

    /// A packet of these segments only, which are some but not all.
    pub(super) fn part(&self, segments: Range<usize>) -> Self {
        let mut parts = self.parts;
        let from = segments.start * parts.segment;
        let to = self.payload().min(segments.end * parts.segment);
        let (headers, payload) = self.bytes().split_at(VIRTIO_NET_HDR_LEN + parts.headers);
        let mut buffer = [headers, &payload[from..to]].concat();
        let (virtio, packet) = buffer.split_at_mut(VIRTIO_NET_HDR_LEN);
        if segments.len() == 1 {
            virtio[1] = GSO_NONE;
            virtio[4..6].fill(0);
            parts.segment = 0;
        }
        let (ip, transport) = packet.split_at_mut(parts.ip_header);
        mend_ip(ip, transport.len(), segments.start);
        match ip[9] {
            TCP => {
                let is_last = segments.end == self.segments();
                mend_tcp(transport, from, segments.start == 0, is_last);
                put(transport, 16, pseudo_sum(ip, transport.len()));
            }
            UDP => {
                put(transport, 4, transport.len() as u16);
                put(transport, 6, pseudo_sum(ip, transport.len()));
            }
            _ => {}
        }
        Self {
            len: buffer.len(),
            buffer,
            parts,
        }
    }
}

/// Each segment has a number of its own, so the parts do not share one.
fn mend_ip(ip: &mut [u8], transport_len: usize, first: usize) {
    put(ip, 2, (ip.len() + transport_len) as u16);
    let number = u16::from_be_bytes([ip[4], ip[5]]);
    put(ip, 4, number.wrapping_add(first as u16));
    put(ip, 10, 0);
    let sum = !fold(words(ip));
    put(ip, 10, sum);
}

fn mend_tcp(tcp: &mut [u8], offset: usize, is_first: bool, is_last: bool) {
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    tcp[4..8].copy_from_slice(&sequence.wrapping_add(offset as u32).to_be_bytes());
    if !is_last {
        tcp[13] &= !OF_LAST;
    }
    if !is_first {
        tcp[13] &= !OF_FIRST;
    }
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// What a partial checksum holds: addresses, protocol and length, not inverted.
fn pseudo_sum(ip: &[u8], transport_len: usize) -> u16 {
    fold(words(&ip[12..20]) + u64::from(ip[9]) + transport_len as u64)
}

fn words(bytes: &[u8]) -> u64 {
    let pairs = bytes.chunks(2);
    pairs
        .map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)))
        .sum()
}

/// The sum in ones' complement.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A super-packet from 10.77.0.1 with a payload of 0, 1, 2, ...
    pub(crate) fn tcp(to: [u8; 4], payload: usize, segment: usize) -> Packet {
        let mut bytes = vec![0; VIRTIO_NET_HDR_LEN + 40];
        // The checksum is partial: from 20 on, at 16 after that.
        bytes[0] = 1;
        bytes[6..10].copy_from_slice(&[20_u16.to_ne_bytes(), 16_u16.to_ne_bytes()].concat());
        if payload > segment {
            bytes[1] = GSO_TCP;
            bytes[4..6].copy_from_slice(&(segment as u16).to_ne_bytes());
        }
        let ip = &mut bytes[VIRTIO_NET_HDR_LEN..];
        ip[0] = 0x45;
        put(ip, 2, (40 + payload) as u16);
        put(ip, 4, 0xffff);
        ip[9] = TCP;
        ip[12..16].copy_from_slice(&[10, 77, 0, 1]);
        ip[16..20].copy_from_slice(&to);
        // Sequence number, header length, and the flags CWR, ACK, PSH, FIN.
        ip[24..28].copy_from_slice(&0xffff_fff0_u32.to_be_bytes());
        ip[32] = 5 << 4;
        ip[33] = 0x80 | 0x10 | 0x08 | 0x01;
        bytes.extend((0..payload).map(|n| n as u8));
        parse(&bytes).unwrap()
    }

    /// With something behind it that is no part of it.
    fn parse(bytes: &[u8]) -> Option<Packet> {
        Packet::parse([bytes, b"other"].concat(), bytes.len()).ok()
    }

    fn ip(packet: &Packet) -> &[u8] {
        &packet.bytes()[VIRTIO_NET_HDR_LEN..]
    }

    #[test]
    fn every_segment_has_its_headers_on_the_wire() {
        let packet = tcp([10, 77, 0, 2], 250, 100);
        assert_eq!(packet.destination(), Ipv4Addr::new(10, 77, 0, 2));
        assert_eq!(packet.segments(), 3);
        assert_eq!(packet.wire_bytes(3), 250 + 3 * 40);
        assert_eq!(packet.wire_bytes(1), 140);
        let alone = tcp([10, 77, 0, 2], 60, 100);
        assert_eq!((alone.segments(), alone.wire_bytes(1)), (1, 100));
    }

    #[test]
    fn parts_follow_each_other_in_the_stream_and_in_sum() {
        let whole = tcp([10, 77, 0, 2], 450, 100);
        let parts = [whole.part(0..1), whole.part(1..3), whole.part(3..5)];
        let mut payload = Vec::new();
        let mut sequences = Vec::new();
        let mut flags = Vec::new();
        for part in &parts {
            let ip = ip(part);
            assert_eq!(fold(words(&ip[..20])), 0xffff, "checksum of IP");
            assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), ip.len());
            let partial = u16::from_be_bytes([ip[36], ip[37]]);
            assert_eq!(partial, pseudo_sum(ip, ip.len() - 20));
            sequences.push(u32::from_be_bytes(ip[24..28].try_into().unwrap()));
            flags.push(ip[33]);
            payload.extend_from_slice(&ip[40..]);
            let again = parse(part.bytes()).unwrap();
            assert_eq!(again.segments(), part.segments());
        }
        assert_eq!(payload, ip(&whole)[40..]);
        assert_eq!(sequences, [0xffff_fff0, 84, 284]);
        assert_eq!(flags, [0x90, 0x10, 0x19]);
        let types = parts.map(|part| part.bytes()[1]);
        assert_eq!(types, [GSO_NONE, GSO_TCP, GSO_TCP]);
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        let good = tcp([10, 77, 0, 2], 250, 100).bytes().to_vec();
        for len in 0..VIRTIO_NET_HDR_LEN + 40 {
            assert!(parse(&good[..len]).is_none(), "{len}");
        }
        let mut v6 = good.clone();
        v6[VIRTIO_NET_HDR_LEN] = 0x65;
        assert!(parse(&v6).is_none());
    }
}
