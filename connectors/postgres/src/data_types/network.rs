//! Addresses of networks and of hardware, written as the server writes them.

use std::fmt::Write;

use bytes::BufMut;
use tailwater_api::Value;

use super::codec::{Fault, Output};
use super::octet_string::put_hexadecimal;
use crate::octets::Octets;

/// The server's own numbers of the families.
const VERSION_4: u8 = 2;
const VERSION_6: u8 = 3;
/// Room for the longest address with its number of bits.
const ROOM: usize = 56;

/// inet and cidr: family, bits of the network, whether it is a cidr, length, octets (`network_send`).
pub(super) fn address(raw: &[u8], output: &mut Output<'_>) -> Result<Value, Fault> {
    let mut octets = Octets::new(raw);
    let (family, bits, is_cidr, length) = (octets.u8()?, octets.u8()?, octets.u8()? != 0, octets.u8()?);
    let address = octets.rest();
    if address.len() != usize::from(length) {
        return Err(Fault::Unreadable);
    }
    let mut written = String::with_capacity(ROOM);
    let all_bits = match (family, address) {
        (VERSION_4, [a, b, c, d]) => {
            write!(written, "{a}.{b}.{c}.{d}").map_err(|_| Fault::Unreadable)?;
            32
        }
        (VERSION_6, address) => {
            write_version_6(address.try_into().map_err(|_| Fault::Unreadable)?, &mut written).map_err(|_| Fault::Unreadable)?;
            128
        }
        _ => return Err(Fault::Unreadable),
    };
    if is_cidr || bits != all_bits {
        write!(written, "/{bits}").map_err(|_| Fault::Unreadable)?;
    }
    output.text(written.len(), |out| out.put_slice(written.as_bytes()))
}

/// The first longest run of two or more zero groups is left out; a version 4 address in a version 6 one is written
/// with points.
fn write_version_6(address: [u8; 16], written: &mut String) -> std::fmt::Result {
    let groups: [u16; 8] = std::array::from_fn(|index| u16::from_be_bytes([address[2 * index], address[2 * index + 1]]));
    let (mut start, mut length) = (0, 0);
    for from in 0..8 {
        let zeros = groups[from..].iter().take_while(|group| **group == 0).count();
        if zeros > length {
            (start, length) = (from, zeros);
        }
    }
    let left_out = if length >= 2 { start..start + length } else { 0..0 };
    for (index, group) in groups.iter().enumerate() {
        if left_out.contains(&index) {
            if index == left_out.start {
                written.push(':');
            }
            continue;
        }
        if index != 0 {
            written.push(':');
        }
        let holds_version_4 = left_out.start == 0 && (left_out.len() == 6 || (left_out.len() == 5 && groups[5] == 0xffff));
        if index == 6 && holds_version_4 {
            let [.., a, b, c, d] = address;
            return write!(written, "{a}.{b}.{c}.{d}");
        }
        write!(written, "{group:x}")?;
    }
    if !left_out.is_empty() && left_out.end == 8 {
        written.push(':');
    }
    Ok(())
}

/// macaddr and macaddr8.
pub(super) fn hardware_address(raw: &[u8], output: &mut Output<'_>) -> Result<Value, Fault> {
    if raw.len() != 6 && raw.len() != 8 {
        return Err(Fault::Unreadable);
    }
    output.text(3 * raw.len(), |out| {
        for (index, octet) in raw.iter().enumerate() {
            if index > 0 {
                out.put_u8(b':');
            }
            put_hexadecimal(&[*octet], out);
        }
    })
}
