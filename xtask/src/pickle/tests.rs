//! Pickles that are weights, that are cut short, and that mean harm.

use super::{Dtype, MAGIC, Weights, read};

/// One pickle of protocol 2.
fn pickle(body: &[u8]) -> Vec<u8> {
    [&[0x80, 2], body, b"."].concat()
}

fn text(s: &str) -> Vec<u8> {
    [b"X".as_slice(), &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat()
}

/// `[size 3 x 2]` by columns, from number 1 of a storage of 7 floats; `size`, `stride` and `offset` as given.
fn tensor(offset: u8, size: [u8; 2], stride: [u8; 2]) -> Vec<u8> {
    let pair = |p: [u8; 2]| vec![b'K', p[0], b'K', p[1], 0x86];
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec(),
        [b"(".to_vec(), text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text("7")].concat(),
        [text("cpu"), b"K\x07NtQ".to_vec()].concat(),
        [vec![b'K', offset], pair(size), pair(stride), vec![0x89]].concat(),
        b"ccollections\nOrderedDict\n)RtR".to_vec(),
    ]
    .concat()
}

/// A whole file around the pickle of its state dict.
fn file(state: &[u8]) -> Vec<u8> {
    let magic = [&[0x8a, 10], &MAGIC.to_le_bytes()[..10]].concat();
    let system = [b"}".to_vec(), text("little_endian"), b"\x88s".to_vec()].concat();
    let keys = [b"](".to_vec(), text("7"), b"e".to_vec()].concat();
    let numbers: Vec<u8> = (0..7u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    let pickles = [&magic, b"M\xe9\x03".as_slice(), &system, state, &keys].map(pickle).concat();
    [pickles, 7i64.to_le_bytes().to_vec(), numbers].concat()
}

fn state(tensor: &[u8]) -> Vec<u8> {
    [b"}(".to_vec(), text("w"), tensor.to_vec(), b"u".to_vec()].concat()
}

#[track_caller]
fn fails(bytes: &[u8], words: &str) {
    let message = format!("{:#}", read(bytes).expect_err("it was read"));
    assert!(message.contains(words), "{message}");
}

#[test]
fn tensors_are_read_row_by_row() {
    let found = read(&file(&state(&tensor(1, [3, 2], [1, 3])))).unwrap();
    let bytes = [1.0f32, 4.0, 2.0, 5.0, 3.0, 6.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(found["w"], Weights { dtype: Dtype::F32, shape: vec![3, 2], bytes });
}

#[test]
fn a_value_that_is_remembered_is_the_same_value() {
    // Two names for one tensor, by the memo.
    let twice =
        [&b"}("[..], &text("a"), &tensor(0, [1, 7], [7, 1]), b"q\x05", &text("b"), b"h\x05u"].concat();
    let found = read(&file(&twice)).unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found["a"], found["b"]);
    fails(&file(b"h\x01"), "nothing is remembered as 1");
}

/// Whatever could run code is not even looked up.
#[test]
fn nothing_but_tensors_is_made() {
    fails(&file(&[b"cos\nsystem\n".to_vec(), text("true"), b"\x85R".to_vec()].concat()), "`os.system`");
    fails(&file(b"cbuiltins\neval\n"), "`builtins.eval`");
    fails(&file(b"ctorch\nload\n"), "`torch.load`");
    fails(&file(b"ios\nsystem\n"), "opcode 0x69 (`i`)");
    fails(&file(b"\x93"), "opcode 0x93");
    fails(&file(b"\x81"), "opcode 0x81"); // NEWOBJ
    fails(&file(b"\x82\x01"), "opcode 0x82"); // EXT1
    fails(&file(b"ccollections\nOrderedDict\nN\x85R"), "only tensors are made");
    fails(&file(b"}K\x01Rb"), "arguments that are no tuple");
    fails(&file(b"N}b"), "no dict");
    fails(&file(&[text("x"), b"Q".to_vec()].concat()), "no storage");
    fails(&file(&state(b"K\x01")), "w: is no tensor");
    fails(&file(b"K\x01"), "no dict of tensors");
    let protocol_4 = [b"\x80\x04".as_slice(), &file(b"}")[2..]].concat();
    fails(&protocol_4, "protocol 4");
}

#[test]
fn views_stay_within_their_storage() {
    fails(&file(&state(&tensor(2, [3, 2], [1, 3]))), "beyond a storage of 7");
    fails(&file(&state(&tensor(0, [2, 2], [1, 255]))), "beyond a storage");
    fails(&file(&state(&tensor(0, [255, 255], [0, 0]))), "beyond a storage");
    fails(&file(&state(&tensor(8, [1, 1], [1, 1]))), "beyond a storage");
}

/// No part of a file is taken for the whole, and nothing may follow it.
#[test]
fn files_that_are_cut_or_grown_are_refused() {
    let whole = file(&state(&tensor(1, [3, 2], [1, 3])));
    for end in 0..whole.len() {
        assert!(read(&whole[..end]).is_err(), "{end} of {} bytes were enough", whole.len());
    }
    fails(&[whole.as_slice(), &[0]].concat(), "1 bytes after the last storage");
    let mut other = whole.clone();
    let length = whole.len() - 7 * 4 - 8;
    other[length] = 6;
    fails(&other, "6 numbers where 7 are declared");
    fails(&[0xff; 64], "opcode 0xff");
    fails(&pickle(b"K\x01"), "not a file of torch.save");
}

/// A damaged byte anywhere gives an error or other numbers, never a panic or a file that is read in part.
#[test]
fn damage_does_no_harm() {
    let whole = file(&state(&tensor(1, [3, 2], [1, 3])));
    for at in 0..whole.len() {
        for flip in [1, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            if let Ok(found) = read(&damaged) {
                assert!(found.values().all(|w| w.bytes.len() == 24
                    || w.shape.iter().product::<usize>() * w.dtype.size() == w.bytes.len()));
            }
        }
    }
}
