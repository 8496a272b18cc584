//! Memory of a stream does not grow with the folder: every byte that is taken is counted.

use heldout_data::{ImageStream, StreamOptions};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

#[allow(unsafe_code, reason = "an allocator is an unsafe trait; it hands on to the system's")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(NOW.fetch_add(layout.size(), SeqCst) + layout.size(), SeqCst);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), SeqCst);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIDE: u32 = 128;

/// Bytes at the highest point of reading `n` images.
fn peak(folder: &Path, n: u32) -> usize {
    for i in 0..n {
        let image = image::RgbImage::from_fn(SIDE, SIDE, |x, y| image::Rgb([x as u8, y as u8, i as u8]));
        image.save(folder.join(format!("{i:05}.png"))).unwrap();
    }
    let before = NOW.load(SeqCst);
    MOST.store(before, SeqCst);
    let options = StreamOptions { batch_size: 8, ..StreamOptions::default() };
    let read: usize =
        ImageStream::open(folder, options).unwrap().map(|batch| batch.unwrap().index.len()).sum();
    assert_eq!(read, n as usize);
    MOST.load(SeqCst) - before
}

#[test]
fn memory_does_not_grow_with_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    peak(folder.path(), 16); // threads and tables that stay
    let (few, many) = (peak(folder.path(), 40), peak(folder.path(), 400));
    let image = (3 * SIDE * SIDE) as usize;
    assert!(few >= 8 * image, "{few} bytes: the counter does not count");
    // Of an image only its name and its size are kept: 360 more cost less than 4 in pixels.
    assert!(many < few + 4 * image, "{few} bytes for 40 images, {many} for 400");
}
