//! Lists of first reads where every worker finds them: beside the manifests that they are of.
//!
//! A list is a hint. One that is not there, cannot be read or is no list costs a start nothing but the time that it would have
//! saved; one that lies costs at most the fetching of [`super::READS_MAX`] chunks.

use std::error::Error;
use std::sync::Arc;

use votive_artifact::gate::{Gate, Presented};

use super::granted::ask;
use super::{Ahead, ArtifactName, Granter, ReadList};
use crate::causes::with_causes;

/// The lists of a store, for one worker.
#[derive(Clone, Debug)]
pub struct Lists {
    gate: Arc<Gate>,
    granter: Arc<dyn Granter>,
    worker: Arc<str>,
}

impl Lists {
    /// What `gate` gives and takes of them, as `worker`.
    #[must_use]
    pub fn new(gate: Arc<Gate>, granter: Arc<dyn Granter>, worker: &str) -> Lists {
        Lists { gate, granter, worker: worker.into() }
    }

    /// What earlier starts read, on any worker.
    pub(super) fn find(self, name: ArtifactName) -> Ahead {
        Box::pin(async move {
            let list = self.get(&name).await.inspect_err(|error| {
                let error = with_causes(&**error);
                tracing::warn!(
                    artifact = name.identity,
                    error,
                    "a list of first reads is not read"
                );
            });
            list.ok().flatten()
        })
    }

    async fn get(
        &self,
        name: &ArtifactName,
    ) -> Result<Option<ReadList>, Box<dyn Error + Send + Sync>> {
        let grant = ask(&*self.granter, name).await?;
        let presented = Presented { worker: &self.worker, grant: &grant };
        let bytes = self.gate.reads(presented).await?;
        Ok(bytes.and_then(|bytes| ReadList::parse(&bytes)))
    }

    /// Keeps a list, unless there is one.
    pub(super) async fn put(
        &self,
        name: &ArtifactName,
        list: &ReadList,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let grant = ask(&*self.granter, name).await?;
        let presented = Presented { worker: &self.worker, grant: &grant };
        self.gate.put_reads(presented, &list.encode()).await?;
        Ok(())
    }
}
