//! Finding the frames in fetched bytes, and opening one so that its bytes can be trusted.

use std::ops::Range;

use crate::format::{
    FRAME_HEADER_LEN, FRAME_MAGIC, FrameHeader, FrameKind, HashKeys, PACK_HEADER_LEN, decode_frame,
    decode_frame_into, frames, parse_header,
};

/// Id, bytes: what the caches are keyed by.
pub(super) type FrameId = [u8; 32];

/// Opens a frame: the plaintext, if it is of this kind and id and has the hash that the id says.
/// Else a few words about what is wrong.
pub(super) fn open_frame(
    keys: &HashKeys,
    kind: FrameKind,
    id: &FrameId,
    frame: &[u8],
) -> Result<Vec<u8>, String> {
    let (header, plain) = decode_frame(frame).map_err(|error| error.to_string())?;
    check(keys, (kind, id), &header, &plain)?;
    Ok(plain)
}

/// As [`open_frame`], with the plaintext to where it is wanted: it must have just that length.
/// After an error `plain` holds anything.
pub(super) fn open_frame_into(
    keys: &HashKeys,
    kind: FrameKind,
    id: &FrameId,
    frame: &[u8],
    plain: &mut [u8],
) -> Result<(), String> {
    let header = decode_frame_into(frame, plain).map_err(|error| error.to_string())?;
    check(keys, (kind, id), &header, plain)
}

fn check(
    keys: &HashKeys,
    (kind, id): (FrameKind, &FrameId),
    header: &FrameHeader,
    plain: &[u8],
) -> Result<(), String> {
    if header.kind != kind || header.id != *id {
        return Err("another frame is there".to_owned());
    }
    let hash = match kind {
        FrameKind::Chunk => keys.chunk(plain).0,
        FrameKind::Node => keys.node(plain).0,
    };
    if hash != *id {
        return Err("the hash does not match".to_owned());
    }
    Ok(())
}

/// Frames of a data window, which begins at a frame: those that lie in it whole.
pub(super) fn frames_of_data_window(bytes: &[u8]) -> Vec<(Range<usize>, FrameHeader)> {
    parse_from(bytes, 0, FrameKind::Chunk)
}

/// Frames of a tree window that begins at `start` in its pack. Unless that is the pack's start,
/// the window may begin inside a frame: then the first whole header is looked for.
///
/// What is found so is not proven: a value that looks like a frame can be taken for one. It is
/// kept under the id that it claims, and opening it compares the hash; what is asked for is cut
/// out by its slot, never found by this.
pub(super) fn frames_of_tree_window(bytes: &[u8], start: u64) -> Vec<(Range<usize>, FrameHeader)> {
    if start == 0 {
        return parse_from(bytes, PACK_HEADER_LEN, FrameKind::Node);
    }
    let is_node =
        |at: &usize| parse_header(&bytes[*at..]).is_ok_and(|header| header.kind == FrameKind::Node);
    let last = bytes.len().saturating_sub(FRAME_HEADER_LEN);
    let first = (0..last).filter(|&at| bytes[at..].starts_with(FRAME_MAGIC)).find(is_node);
    first.map_or(Vec::new(), |first| parse_from(bytes, first, FrameKind::Node))
}

fn parse_from(bytes: &[u8], first: usize, kind: FrameKind) -> Vec<(Range<usize>, FrameHeader)> {
    let Some(rest) = bytes.get(first..) else { return Vec::new() };
    frames(rest)
        .take_while(|(_, header)| header.kind == kind)
        .map(|(at, header)| (first + at..first + at + header.frame_len as usize, header))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::encode_frame;

    fn keys() -> HashKeys {
        HashKeys::new(&[7; 32])
    }

    fn node_frame(plain: &[u8]) -> (FrameId, Vec<u8>) {
        let id = keys().node(plain).0;
        (id, encode_frame(FrameKind::Node, &id, plain))
    }

    #[test]
    fn a_frame_opens_only_under_its_own_id_kind_and_hash() {
        let (id, frame) = node_frame(b"plain");
        assert_eq!(open_frame(&keys(), FrameKind::Node, &id, &frame).unwrap(), b"plain");
        assert!(open_frame(&keys(), FrameKind::Chunk, &id, &frame).is_err());
        assert!(open_frame(&keys(), FrameKind::Node, &[1; 32], &frame).is_err());
        let forged = encode_frame(FrameKind::Node, &id, b"other");
        assert!(open_frame(&keys(), FrameKind::Node, &id, &forged).is_err());
        for at in 0..frame.len() {
            let mut damaged = frame.clone();
            damaged[at] ^= 0x40;
            assert!(open_frame(&keys(), FrameKind::Node, &id, &damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_frame_opens_in_its_place_only_if_all_of_it_is_right() {
        let plains = [vec![7; 5000], (0..5000_u32).map(|n| ((n * n) >> 7) as u8).collect()];
        for plain in plains {
            let id = keys().chunk(&plain).0;
            let frame = encode_frame(FrameKind::Chunk, &id, &plain);
            let open = |kind, id, frame: &[u8], len| {
                let mut place = vec![0; len];
                open_frame_into(&keys(), kind, id, frame, &mut place).map(|()| place)
            };
            assert_eq!(open(FrameKind::Chunk, &id, &frame, 5000).unwrap(), plain);
            assert!(open(FrameKind::Chunk, &id, &frame, 4999).is_err());
            assert!(open(FrameKind::Chunk, &id, &frame, 5001).is_err());
            assert!(open(FrameKind::Node, &id, &frame, 5000).is_err());
            assert!(open(FrameKind::Chunk, &[1; 32], &frame, 5000).is_err());
            for at in 0..frame.len() {
                assert!(open(FrameKind::Chunk, &id, &frame[..at], 5000).is_err(), "cut at {at}");
                let mut damaged = frame.clone();
                damaged[at] ^= 0x40;
                // Whatever is damaged, no other byte comes of it.
                if let Ok(found) = open(FrameKind::Chunk, &id, &damaged, 5000) {
                    assert!(found == plain, "byte {at}");
                }
            }
        }
    }

    #[test]
    fn a_tree_window_that_begins_inside_a_frame_finds_all_that_begin_in_it() {
        let list: Vec<_> =
            (0..20_u32).map(|i| node_frame(&vec![i as u8; 300 + i as usize])).collect();
        let mut bytes = Vec::new();
        let mut starts = Vec::new();
        for (_, frame) in &list {
            starts.push(bytes.len());
            bytes.extend_from_slice(frame);
        }
        for cut in 1..bytes.len() {
            let found = frames_of_tree_window(&bytes[cut..], 1);
            let expected = starts.iter().filter(|&&start| start >= cut).count();
            assert_eq!(found.len(), expected, "cut at {cut}");
            for (range, header) in found {
                let index = starts.iter().position(|&s| s == cut + range.start).unwrap();
                assert_eq!(header.id, list[index].0);
            }
        }
    }

    #[test]
    fn a_frame_cut_by_the_windows_end_is_left_out() {
        let (_, frame) = node_frame(&[9; 500]);
        let mut bytes = b"DMPK....".to_vec();
        bytes.extend_from_slice(&frame);
        bytes.extend_from_slice(&frame);
        assert_eq!(frames_of_tree_window(&bytes, 0).len(), 2);
        bytes.pop();
        assert_eq!(frames_of_tree_window(&bytes, 0).len(), 1);
        assert!(frames_of_data_window(&bytes[8..]).is_empty(), "nodes are not chunks");
    }
}
