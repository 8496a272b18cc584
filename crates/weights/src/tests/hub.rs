//! The hub, played by a server of this process.

use super::{MAX_SHARD_BYTES, model, saved, says};
use crate::hub::{Hub, HubName, Parts, resolve_with};
use crate::{WeightFiles, is_pipeline};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub of one repository, `owner/name`.
struct Server {
    endpoint: String,
    /// The paths asked for, one a request.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Serves the files of a folder under `inside` in the repository, and these others.
    fn start(folder: &Path, inside: &str, others: &[(&str, &str)]) -> Self {
        Self::of(&[(folder, inside)], others)
    }

    /// The same of several folders.
    fn of(folders: &[(&Path, &str)], others: &[(&str, &str)]) -> Self {
        let mut files: BTreeMap<String, Vec<u8>> =
            others.iter().map(|(n, text)| ((*n).to_owned(), text.as_bytes().to_vec())).collect();
        for (folder, inside) in folders {
            for name in super::list(folder) {
                files.insert(format!("{inside}{name}"), fs::read(folder.join(&name)).unwrap());
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let path = answer(stream.unwrap(), &files);
                log.lock().unwrap().push(path);
            }
        });
        Self { endpoint, asked }
    }

    fn hub(&self, cache: &TempDir) -> Hub {
        Hub {
            endpoint: self.endpoint.clone(),
            cache: cache.path().join("hub"),
            offline: false,
            progress: false,
        }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// Answers one request as the hub does, and gives the path that was asked for.
fn answer(mut stream: TcpStream, files: &BTreeMap<String, Vec<u8>>) -> String {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let head: Vec<String> = lines.map(Result::unwrap).take_while(|l| !l.is_empty()).collect();
    let path = head[0].split(' ').nth(1).unwrap().to_owned();
    let range = head.iter().find_map(|l| l.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    let file = path.strip_prefix(&format!("/owner/name/resolve/{COMMIT}/")).and_then(|name| files.get(name));
    let (status, headers, body) = if path == "/api/models/owner/name/revision/main" {
        let siblings: Vec<_> = files.keys().map(|n| json!({"rfilename": n})).collect();
        ("200 OK", String::new(), json!({"sha": COMMIT, "siblings": siblings}).to_string().into_bytes())
    } else if let Some(file) = file {
        let range = range.unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let start: usize = start.parse().unwrap();
        let end = end.parse().map_or(file.len(), |e: usize| e + 1);
        let etag = format!("{:x}", path.bytes().fold(7u64, |h, b| h.wrapping_mul(31) + u64::from(b)));
        let total = file.len();
        let headers = format!(
            "Content-Range: bytes {start}-{}/{total}\r\nETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\n",
            end - 1
        );
        ("206 Partial Content", headers, file[start..end].to_vec())
    } else {
        ("404 Not Found", String::new(), Vec::new())
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n")
        .unwrap();
    stream.write_all(&body).unwrap();
    path
}

fn name(text: &str) -> HubName {
    HubName::parse(text).unwrap()
}

#[test]
fn a_model_is_fetched_once_and_found_offline() {
    let (_root, folder) = saved(&model(), 60);
    let pickle = [("unet/diffusion_pytorch_model.bin", "pickle"), ("unet/scheduler_config.json", "{}")];
    let (server, cache) = (Server::start(&folder, "unet/", &pickle), tempfile::tempdir().unwrap());
    let mut hub = server.hub(&cache);
    let fetched = hub.fetch(&name("owner/name/unet"), None).unwrap();
    assert!(fetched.ends_with(format!("{COMMIT}/unet")));
    assert_eq!(WeightFiles::open(&fetched, None).unwrap().shapes().len(), 6);
    assert!(fetched.join("scheduler_config.json").is_file());
    let asked = server.asked();
    assert!(
        asked.iter().any(|p| p.ends_with("00003-of-00003.safetensors"))
            && !asked.iter().any(|p| p.ends_with(".bin"))
    );

    assert_eq!(hub.fetch(&name("owner/name/unet"), None).unwrap(), fetched);
    assert_eq!(server.asked(), ["/api/models/owner/name/revision/main"]);
    assert_eq!(hub.fetch(&name(&format!("owner/name/unet@{COMMIT}")), None).unwrap(), fetched);
    hub.offline = true;
    assert_eq!(hub.fetch(&name("owner/name/unet"), None).unwrap(), fetched);
    assert!(server.asked().is_empty());
    says(
        hub.fetch(&name("owner/other"), None),
        &["owner/other", "HF_HUB_OFFLINE", &server.endpoint, "local folder"],
    );
    (hub.offline, hub.endpoint) = (false, closed());
    assert_eq!(hub.fetch(&name("owner/name/unet"), None).unwrap(), fetched);
    says(hub.fetch(&name("owner/name/vae"), None), &["owner/name", &hub.endpoint]);
}

/// An address at which nobody listens.
fn closed() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

#[test]
fn refusals_name_the_repository_the_endpoint_and_the_remedy() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub { endpoint: closed(), cache: cache.path().join("hub"), offline: false, progress: false };
    says(hub.fetch(&name("google/ddpm"), None), &["google/ddpm", &hub.endpoint, "give a local folder"]);

    let (_root, folder) = saved(&model(), MAX_SHARD_BYTES);
    let server = Server::start(
        &folder,
        "unet/",
        &[("model_index.json", "{}"), ("vae/config.json", "{}"), ("vae/x.bin", "")],
    );
    let hub = server.hub(&cache);
    says(hub.fetch(&name("owner/none"), None), &["owner/none", "404", &server.endpoint]);
    says(hub.fetch(&name("owner/name@v2"), None), &["owner/name", "revision v2"]);
    says(hub.fetch(&name("owner/name"), None), &["is a pipeline", "unet, vae", &server.endpoint]);
    says(
        hub.fetch(&name("owner/name/vae"), None),
        &["owner/name/vae", "x.bin is a pickle", "weights_only=True"],
    );
    says(hub.fetch(&name("owner/name/unet"), Some("fp16")), &["owner/name/unet", "variant `fp16`"]);
}

#[test]
fn names_have_an_owner_and_nothing_odd() {
    let parsed = name("a/b.c-d_e/sub/folder@refs/pr/1");
    assert_eq!((parsed.repo.as_str(), parsed.subfolder.as_str()), ("a/b.c-d_e", "sub/folder"));
    assert_eq!(parsed.revision, "refs/pr/1");
    assert_eq!(name("a/b").revision, "main");
    for odd in [
        "a", "/a/b", "a/", "../b", "a/../b", "a/b@", "a/b@../x", "a b/c", "a/b?c", "./a", "~/a", "a/b/.git",
        "",
    ] {
        assert_eq!(HubName::parse(odd), None, "{odd}");
    }
}

#[test]
fn a_path_wins_over_a_name() {
    let (_root, folder) = saved(&model(), MAX_SHARD_BYTES);
    let none = || -> heldout_core::Result<Hub> { panic!("the hub is not asked") };
    let fetch = |hub: &Hub, name: &HubName| hub.fetch(name, None);
    assert_eq!(resolve_with(folder.to_str().unwrap(), none, fetch).unwrap(), folder);
    says(resolve_with("no/model.safetensors", none, fetch), &["no/model.safetensors", "no such path"]);
    says(resolve_with("/no/such/folder", none, fetch), &["/no/such/folder", "`owner/name`"]);
    let (server, cache) = (Server::start(&folder, "", &[]), tempfile::tempdir().unwrap());
    let fetched = resolve_with("owner/name", || Ok(server.hub(&cache)), fetch).unwrap();
    assert!(fetched.join("config.json").is_file());
}

const INDEX: &str = r#"{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"], "scheduler": ["diffusers", "PNDMScheduler"],
    "tokenizer": ["transformers", "CLIPTokenizer"], "safety_checker": [null, null]}"#;
const WHOLE: Parts<'_> =
    Parts { names: &["unet", "vae", "scheduler", "tokenizer", "controlnet"], weights: true };

fn pipeline_server(folder: &Path) -> Server {
    let others = [
        ("model_index.json", INDEX),
        ("README.md", "read me"),
        ("unet/diffusion_pytorch_model.bin", "pickle"),
        ("scheduler/scheduler_config.json", "{}"),
        ("tokenizer/vocab.json", "{}"),
        ("tokenizer/merges.txt", "a b"),
        ("safety_checker/config.json", "{}"),
        ("safety_checker/model.safetensors", "large"),
    ];
    Server::of(&[(folder, "unet/"), (folder, "vae/")], &others)
}

#[test]
fn a_pipeline_is_fetched_part_by_part_and_found_offline() {
    let (_root, folder) = saved(&model(), 60);
    let (server, cache) = (pipeline_server(&folder), tempfile::tempdir().unwrap());
    let mut hub = server.hub(&cache);
    let whole = name("owner/name");
    let configurations = Parts { weights: false, ..WHOLE };
    let fetched = hub.fetch_whole(&whole, None, configurations).unwrap();
    assert!(fetched.ends_with(COMMIT) && is_pipeline(&fetched));
    let asked = server.asked();
    assert!(!asked.iter().any(|p| p.ends_with(".safetensors") || p.ends_with(".md") || p.ends_with(".bin")));
    // With weights it is not whole yet.
    hub.offline = true;
    says(hub.fetch_whole(&whole, None, WHOLE), &["owner/name", "HF_HUB_OFFLINE"]);
    hub.offline = false;
    assert_eq!(hub.fetch_whole(&whole, None, WHOLE).unwrap(), fetched);
    let asked = server.asked();
    assert!(!asked.iter().any(|p| p.ends_with(".json") && !p.ends_with(".index.json")), "{asked:?}");
    for part in ["unet", "vae"] {
        assert_eq!(WeightFiles::open(&fetched.join(part), None).unwrap().shapes().len(), 6);
    }
    for file in ["scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt"] {
        assert!(fetched.join(file).is_file(), "{file}");
    }
    assert!(!fetched.join("safety_checker").exists());

    assert_eq!(hub.fetch_whole(&whole, None, WHOLE).unwrap(), fetched);
    assert_eq!(server.asked(), ["/api/models/owner/name/revision/main"]);
    hub.offline = true;
    assert_eq!(hub.fetch_whole(&whole, None, WHOLE).unwrap(), fetched);
    assert_eq!(hub.fetch_whole(&name("owner/name/unet"), None, WHOLE).unwrap(), fetched.join("unet"));
    (hub.offline, hub.endpoint) = (false, closed());
    assert_eq!(hub.fetch_whole(&whole, None, WHOLE).unwrap(), fetched);
    assert!(server.asked().is_empty());
}

#[test]
fn a_part_that_cannot_be_had_is_named_and_the_pipeline_is_not_there() {
    let (_root, folder) = saved(&model(), MAX_SHARD_BYTES);
    let (server, cache) = (pipeline_server(&folder), tempfile::tempdir().unwrap());
    let hub = server.hub(&cache);
    says(hub.fetch_whole(&name("owner/name"), Some("fp16"), WHOLE), &["owner/name/unet", "variant `fp16`"]);
    let pickled = [
        ("model_index.json", INDEX),
        ("vae/config.json", "{}"),
        ("vae/diffusion_pytorch_model.bin", "pickle"),
    ];
    let (server, cache) = (Server::start(&folder, "unet/", &pickled), tempfile::tempdir().unwrap());
    let mut hub = server.hub(&cache);
    let said = ["owner/name/vae", "diffusion_pytorch_model.bin is a pickle", "weights_only=True"];
    says(hub.fetch_whole(&name("owner/name"), None, WHOLE), &said);
    assert!(!server.asked().iter().any(|p| p.ends_with(".bin")));
    hub.offline = true;
    says(hub.fetch_whole(&name("owner/name"), None, WHOLE), &["HF_HUB_OFFLINE"]);
}
