//! One image in memory, and the chunks that are on their way to it: each once, whoever waits.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use votive_artifact::fetch::FetchError;
use votive_artifact::manifest::Manifest;

use crate::artifacts::granted::{Granted, is_refusal};
use crate::artifacts::memory::{Memory, PageTable, Share};
use crate::artifacts::reads::{READS_MAX, ReadList};
use crate::artifacts::{Shared, User, lock};

/// Chunks of one image on their way at once, so that an image whose chunks are slow leaves turns to others. With 30 ms each
/// they are 550 MB/s.
const IMAGE_TURNS: usize = 32;
/// How many of them may be fetched ahead, so that a read that somebody waits for finds a turn.
const AHEAD_TURNS: usize = 16;

/// Why a chunk is not there.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChunkError {
    #[error("the image has no chunk {0}")]
    NoChunk(u32),
    #[error(transparent)]
    Load(#[from] FetchError),
    #[error("images in memory take all that they may")]
    Full,
    #[error("the chunk cannot be written to memory")]
    Write(#[source] io::Error),
    #[error("the worker is ending")]
    Ended,
}

impl ChunkError {
    fn is_refusal(&self) -> bool {
        matches!(self, ChunkError::Load(error) if is_refusal(error))
    }
}

type Landed = Result<(), Arc<ChunkError>>;
type Flight = watch::Receiver<Option<Landed>>;

/// An image that microVMs read while it comes.
#[derive(Debug)]
pub(super) struct Served {
    memory: Memory,
    chunks: u32,
    state: Mutex<State>,
    turns: Semaphore,
    reads: Arc<Mutex<Reads>>,
}

#[derive(Debug)]
struct State {
    present: Vec<bool>,
    flights: HashMap<u32, Flight>,
    /// What the image takes of the worker's budget.
    shares: Vec<Share>,
}

/// What was read first. It may outlive the image's memory.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// In the order in which they were first asked for, or listed to be fetched ahead.
    first: Vec<u32>,
    ahead: bool,
    /// There is a list of them in the store, or somebody writes it.
    pub(super) kept: bool,
}

/// What asking for a chunk comes to.
enum Joined {
    Present,
    Flight { flight: Flight, ours: bool },
}

impl Served {
    pub(super) fn new(manifest: &Manifest) -> io::Result<Served> {
        let zeros = manifest.zeros();
        let state = State {
            present: (0..zeros.chunks()).map(|index| zeros.is_zero(index)).collect(),
            flights: HashMap::new(),
            shares: Vec::new(),
        };
        Ok(Served {
            memory: Memory::new(manifest)?,
            chunks: zeros.chunks(),
            state: Mutex::new(state),
            turns: Semaphore::new(IMAGE_TURNS),
            reads: Arc::default(),
        })
    }

    /// The image and the table of its chunks, to be read only.
    pub(super) fn read_only(&self) -> io::Result<(File, File)> {
        self.memory.read_only()
    }

    /// A table for the pages that one guest reads, unless what starts read is known.
    pub(super) fn page_table(&self) -> io::Result<Option<PageTable>> {
        if lock(&self.reads).kept {
            return Ok(None);
        }
        self.memory.page_table().map(Some)
    }

    /// Whether a chunk is there.
    pub(super) fn holds(&self, index: u32) -> bool {
        lock(&self.state).present.get(index as usize).copied().unwrap_or(false)
    }

    /// The first reads.
    pub(super) fn first_reads(&self) -> Arc<Mutex<Reads>> {
        Arc::clone(&self.reads)
    }

    /// Brings a chunk that a guest reads.
    pub(super) async fn read(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        granted: &Arc<Granted>,
        index: u32,
    ) -> Landed {
        if index < self.chunks {
            lock(&self.reads).note(index);
        }
        self.bring(shared, granted, index).await
    }

    /// Fetches what earlier starts read, once for each image, while `user` is there.
    pub(super) async fn fetch_ahead(
        self: Arc<Self>,
        shared: Arc<Shared>,
        granted: Arc<Granted>,
        user: Weak<User>,
        list: ReadList,
    ) {
        if !self.plan_ahead(&list) {
            return;
        }
        let mut under_way = JoinSet::new();
        for index in list.indices() {
            if under_way.len() >= AHEAD_TURNS {
                under_way.join_next().await;
            }
            if user.strong_count() == 0 {
                // Whoever comes next goes on with it.
                lock(&self.reads).ahead = false;
                break;
            }
            let (served, shared, granted) =
                (Arc::clone(&self), Arc::clone(&shared), Arc::clone(&granted));
            under_way.spawn(async move {
                let _turn = shared.ahead.acquire().await;
                // What fails is asked for anew by whoever reads it, and fails then.
                drop(served.bring(&shared, &granted, index).await);
            });
        }
        while under_way.join_next().await.is_some() {}
    }

    /// Whether what is fetched ahead is known.
    pub(super) fn is_planned(&self) -> bool {
        lock(&self.reads).ahead
    }

    /// Notes what is fetched ahead; false if that was done before.
    fn plan_ahead(&self, list: &ReadList) -> bool {
        let mut reads = lock(&self.reads);
        if std::mem::replace(&mut reads.ahead, true) {
            return false;
        }
        reads.kept = true;
        let read = std::mem::take(&mut reads.first);
        reads.first = list.indices().into_iter().filter(|index| *index < self.chunks).collect();
        read.into_iter().for_each(|index| reads.note(index));
        true
    }

    /// Ends when a chunk is there, or is known not to come.
    async fn bring(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        granted: &Arc<Granted>,
        index: u32,
    ) -> Landed {
        loop {
            let (mut flight, ours) = match self.join(shared, granted, index)? {
                Joined::Present => return Ok(()),
                Joined::Flight { flight, ours } => (flight, ours),
            };
            let landed = match flight.wait_for(Option::is_some).await {
                Ok(landed) => landed.clone().unwrap_or_else(ended),
                Err(_) => ended(),
            };
            match landed {
                // Another environment's grant was refused; this one's may be good.
                Err(error) if !ours && error.is_refusal() => {}
                landed => return landed,
            }
        }
    }

    fn join(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        granted: &Arc<Granted>,
        index: u32,
    ) -> Result<Joined, Arc<ChunkError>> {
        let mut state = lock(&self.state);
        match state.present.get(index as usize) {
            Some(true) => return Ok(Joined::Present),
            Some(false) => {}
            None => return Err(Arc::new(ChunkError::NoChunk(index))),
        }
        if let Some(flight) = state.flights.get(&index) {
            return Ok(Joined::Flight { flight: flight.clone(), ours: false });
        }
        let (sender, flight) = watch::channel(None);
        state.flights.insert(index, flight.clone());
        drop(state);
        let mut landing = Landing { served: Arc::clone(self), index, share: None };
        let (shared, granted) = (Arc::clone(shared), Arc::clone(granted));
        // It goes on when whoever asked gives up: the next one finds it under way.
        tokio::spawn(async move {
            let landed = landing.fly(&shared, &granted).await.map_err(Arc::new);
            drop(landing);
            // All who wait may have given up.
            let _ = sender.send(Some(landed));
        });
        Ok(Joined::Flight { flight, ours: true })
    }
}

impl Reads {
    /// Those so far.
    pub(super) fn so_far(&self) -> Vec<u32> {
        self.first.clone()
    }

    /// Those so far, if nobody keeps them yet.
    pub(super) fn keep_now(&mut self) -> Option<Vec<u32>> {
        let fresh = !self.kept && !self.first.is_empty();
        fresh.then(|| {
            self.kept = true;
            self.so_far()
        })
    }

    fn note(&mut self, index: u32) {
        if self.first.len() < READS_MAX && !self.first.contains(&index) {
            self.first.push(index);
        }
    }
}

fn ended() -> Landed {
    Err(Arc::new(ChunkError::Ended))
}

/// A chunk that is under way. However that ends, it is under way no longer.
struct Landing {
    served: Arc<Served>,
    index: u32,
    /// There once the chunk is.
    share: Option<Share>,
}

impl Landing {
    async fn fly(&mut self, shared: &Arc<Shared>, granted: &Granted) -> Result<(), ChunkError> {
        let (served, index) = (Arc::clone(&self.served), self.index);
        let _image = served.turns.acquire().await.map_err(|_| ChunkError::Ended)?;
        let _worker = shared.turns.acquire().await.map_err(|_| ChunkError::Ended)?;
        let share = shared.reserve(served.memory.bytes_of(index)).await.ok_or(ChunkError::Full)?;
        let buffer = shared.buffers.take();
        let chunk = granted.chunk(&shared.loader, index, buffer).await?;
        let (memory, buffers) = (Arc::clone(&served), Arc::clone(shared));
        let filled = tokio::task::spawn_blocking(move || {
            let filled = memory.memory.fill(index, &chunk);
            buffers.buffers.give(chunk);
            filled
        });
        filled.await.map_err(|_| ChunkError::Ended)?.map_err(ChunkError::Write)?;
        self.share = Some(share);
        Ok(())
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut state = lock(&self.served.state);
        state.flights.remove(&self.index);
        if let Some(share) = self.share.take() {
            state.shares.push(share);
            if let Some(present) = state.present.get_mut(self.index as usize) {
                *present = true;
            }
        }
    }
}
