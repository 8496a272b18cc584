//! Models by name: fetched from the Hugging Face hub, or an instance of it, into its cache.

use crate::choose::{CONFIG, Chosen, Listing};
use crate::files::read_index;
use crate::{WeightFiles, pickle};
use heldout_core::{Error, Result};
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Component, Path, PathBuf};

const ENDPOINT: &str = "https://huggingface.co";
/// Read by samplers and schedules where it lies beside the weights.
const SCHEDULER: &str = "scheduler_config.json";

/// The name of a model on the hub: `owner/name`, `owner/name/unet`, `owner/name@revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    /// `owner/name`.
    pub repo: String,
    /// The folder in it, empty for its top.
    pub subfolder: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl HubName {
    /// Reads a name; `None` if it is not of this form.
    pub fn parse(text: &str) -> Option<Self> {
        let (path, revision) = text.split_once('@').unwrap_or((text, "main"));
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let is_part = |p: &&str| !p.is_empty() && p.chars().all(plain) && !p.starts_with(['.', '-']);
        let whole = |path: &str| path.split('/').all(|p| is_part(&p));
        let parts: Vec<&str> = path.split('/').collect();
        if parts.len() < 2 || !whole(path) || !whole(revision) {
            return None;
        }
        let (repo, subfolder) = (parts[..2].join("/"), parts[2..].join("/"));
        Some(Self { repo, subfolder, revision: revision.to_owned() })
    }

    fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.repo.clone(), RepoType::Model, revision.to_owned())
    }

    /// What messages call it.
    fn path(&self) -> PathBuf {
        self.inside(Path::new(&self.repo))
    }

    /// The subfolder of a folder; `join` would end the path with a slash for none.
    fn inside(&self, folder: &Path) -> PathBuf {
        if self.subfolder.is_empty() { folder.to_owned() } else { folder.join(&self.subfolder) }
    }

    /// A file's path in the repository.
    fn file(&self, name: &str) -> String {
        if self.subfolder.is_empty() { name.to_owned() } else { format!("{}/{name}", self.subfolder) }
    }
}

/// Where models are fetched from, and kept.
#[derive(Debug, Clone)]
pub struct Hub {
    /// The address, without a slash at the end.
    pub endpoint: String,
    /// The folder of the cache, in the layout that Python's `huggingface_hub` shares.
    pub cache: PathBuf,
    /// Whether only the cache is asked.
    pub offline: bool,
    /// Whether a bar shows the progress of downloads.
    pub progress: bool,
}

impl Hub {
    /// As the environment says: `HF_ENDPOINT`, `HF_HOME` (otherwise `~/.cache/huggingface`), `HF_HUB_OFFLINE`.
    /// A token is taken from `HF_TOKEN` or the cache's own file when a request is made, and never kept here.
    ///
    /// # Errors
    /// Neither `HF_HOME` nor a home folder is known.
    pub fn from_env() -> Result<Self> {
        let set = |name| env::var(name).ok().filter(|v| !v.is_empty());
        let home = set("HF_HOME").map(PathBuf::from);
        let home = home.or_else(|| env::home_dir().map(|h| h.join(".cache/huggingface")));
        let home =
            home.ok_or_else(|| Error::config("HF_HOME", "no home folder is known: set this variable"))?;
        let yes = |v: String| ["1", "on", "true", "yes"].contains(&v.to_lowercase().as_str());
        Ok(Self {
            endpoint: set("HF_ENDPOINT")
                .unwrap_or_else(|| ENDPOINT.to_owned())
                .trim_end_matches('/')
                .to_owned(),
            cache: home.join("hub"),
            offline: set("HF_HUB_OFFLINE").is_some_and(yes),
            progress: false,
        })
    }

    /// The local folder of a model, with `config.json` and the safetensors of `variant`; never pickles.
    ///
    /// A revision is resolved to a commit first and all files are of that commit, which names the folder. A commit
    /// that is in the cache needs no network; nor does a branch that is there while the hub does not answer.
    ///
    /// # Errors
    /// The hub does not answer or does not know the model, or the model has no safetensors: the message names both.
    pub fn fetch(&self, name: &HubName, variant: Option<&str>) -> Result<PathBuf> {
        let cached = self.cached(name, variant);
        let is_commit = name.revision.len() == 40 && name.revision.chars().all(|c| c.is_ascii_hexdigit());
        match &cached {
            Some(folder) if self.offline || is_commit => return Ok(folder.clone()),
            None if self.offline => {
                let reason = format!(
                    "is not in {} and HF_HUB_OFFLINE forbids to ask {}: unset it, or give a local folder",
                    self.cache.display(),
                    self.endpoint
                );
                return Err(Error::file(name.path(), reason));
            }
            _ => {}
        }
        let fail = |e: ApiError| self.refused(name, &e);
        let api = self.api().map_err(fail)?;
        let info = match (api.repo(name.at(&name.revision)).info(), &cached) {
            (Ok(info), _) => info,
            (Err(_), Some(folder)) => return Ok(folder.clone()),
            (Err(e), None) => return Err(fail(e)),
        };
        if let Some(folder) = cached.filter(|f| f.ends_with(name.inside(Path::new(&info.sha)))) {
            return Ok(folder);
        }
        if info.sha.is_empty() || !info.sha.chars().all(|c| c.is_ascii_alphanumeric()) {
            let reason = format!("{} gives it the commit `{}`: check the address", self.endpoint, info.sha);
            return Err(Error::file(name.path(), reason));
        }
        let files: Vec<String> = info.siblings.into_iter().map(|s| s.rfilename).collect();
        self.download(&api, name, variant, &info.sha, &files)
    }

    fn download(
        &self,
        api: &Api,
        name: &HubName,
        variant: Option<&str>,
        commit: &str,
        files: &[String],
    ) -> Result<PathBuf> {
        let listing = list(files, &name.subfolder);
        let chosen = listing
            .choose(Path::new(""), variant)
            .map_err(|reason| Error::file(name.path(), format!("{reason} (at {})", self.endpoint)))?;
        let repo = api.repo(name.at(commit));
        let get = |file: &str| repo.get(&name.file(file)).map_err(|e| self.refused(name, &e));
        for file in [CONFIG, SCHEDULER].into_iter().filter(|f| listing.files.iter().any(|l| l == f)) {
            get(file)?;
        }
        match chosen {
            Chosen::Single(file) => drop(get(&file)?),
            Chosen::Index(index) => {
                let shards: BTreeSet<String> = read_index(&get(&index)?)?.weight_map.into_values().collect();
                shards.iter().try_for_each(|shard| get(shard).map(drop))?;
            }
        }
        let cache = Cache::new(self.cache.clone()).repo(name.at(&name.revision));
        cache.create_ref(commit).map_err(Error::io(&self.cache))?; // so that the branch is found without a network
        Ok(name.inside(&cache.pointer_path(commit)))
    }

    /// The folder in the cache, if all that is needed is there.
    fn cached(&self, name: &HubName, variant: Option<&str>) -> Option<PathBuf> {
        let cache = Cache::new(self.cache.clone()).repo(name.at(&name.revision));
        let repo = self.cache.join(name.at(&name.revision).folder_name());
        let commit = fs::read_to_string(repo.join("refs").join(&name.revision));
        let commit = commit.map_or_else(|_| name.revision.clone(), |c| c.trim().to_owned());
        let folder = name.inside(&cache.pointer_path(&commit));
        let inside = Path::new(&commit).components().all(|c| matches!(c, Component::Normal(_)));
        let whole = inside
            && folder.is_dir()
            && WeightFiles::open(&folder, variant).is_ok_and(|f| f.config().is_ok());
        whole.then_some(folder)
    }

    fn api(&self) -> Result<Api, ApiError> {
        let builder = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.clone())
            .with_progress(self.progress);
        match env::var("HF_TOKEN").ok().filter(|t| !t.is_empty()) {
            Some(token) => builder.with_token(Some(token)).build(),
            None => builder.build(),
        }
    }

    fn refused(&self, name: &HubName, e: &ApiError) -> Error {
        let reason = format!(
            "revision {} cannot be had from {}: {e}; check the name and the network, or give a local folder",
            name.revision, self.endpoint
        );
        Error::file(name.path(), reason)
    }
}

/// The files of one folder of a repository, and its subfolders that hold models.
fn list(files: &[String], subfolder: &str) -> Listing {
    let mut listing = Listing::default();
    for file in files {
        let inside = if subfolder.is_empty() { Some(file.as_str()) } else { strip(file, subfolder) };
        let Some(inside) = inside else { continue };
        match inside.split_once('/') {
            None => listing.files.push(inside.to_owned()),
            Some((folder, CONFIG)) => listing.models.push(folder.to_owned()),
            Some(_) => {}
        }
    }
    listing.models.sort();
    listing
}

fn strip<'a>(file: &'a str, folder: &str) -> Option<&'a str> {
    file.strip_prefix(folder)?.strip_prefix('/')
}

/// The local path of a model: an existing path as it is, otherwise a name on the hub, fetched if need be.
///
/// # Errors
/// There is no such path and it is no name, or the hub does not give it.
pub fn resolve(source: &str, variant: Option<&str>) -> Result<PathBuf> {
    resolve_with(source, variant, Hub::from_env)
}

/// As [`resolve`], from a hub of one's own.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_with(
    source: &str,
    variant: Option<&str>,
    hub: impl FnOnce() -> Result<Hub>,
) -> Result<PathBuf> {
    let path = Path::new(source);
    if path.exists() {
        return Ok(path.to_owned());
    }
    let is_file = source.ends_with(".safetensors") || pickle::is_pickle(path);
    match HubName::parse(source).filter(|_| !is_file) {
        Some(name) => hub()?.fetch(&name, variant),
        None => Err(Error::file(
            path,
            "no such path, and no name on the hub: give a folder, a .safetensors file or `owner/name`",
        )),
    }
}
