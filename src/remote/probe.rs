//! Does the store honour conditional puts, and how does it want them written? Asked once per
//! store, at `init`: a server that ignores a condition answers like one that met it.

use bytes::Bytes;
use futures::future::join_all;

use super::engine::Engine;
use super::limit::Priority;
use super::{ConditionStyle, PutMode, RemoteError, Stored, Version};

/// Writers that race for one object.
const RACERS: usize = 8;

/// Races of each kind. A server that is not atomic may get one right by chance.
const RACES: usize = 3;

/// Runs the probe and leaves the style set that the store understands.
pub(super) async fn probe(engine: &Engine) -> Result<ConditionStyle, RemoteError> {
    let number = engine.jitter.number();
    let probe = Probe { engine, folder: format!("probe/{number:016x}") };
    let found = probe.run().await;
    // Whatever was found: nothing is left. Where the store is gone, that can't be helped.
    for name in ["serial", "created", "raced"] {
        let removed = engine.delete(&probe.key(name)).await;
        if let Err(error) = removed {
            tracing::debug!(%error, "a probe's object is left in the store");
        }
    }
    found
}

struct Probe<'a> {
    engine: &'a Engine,
    /// Of this probe alone, so that two machines may probe at once.
    folder: String,
}

impl Probe<'_> {
    async fn run(&self) -> Result<ConditionStyle, RemoteError> {
        let first = self.serial_create().await?;
        let style = self.serial_swap(first.version()).await?;
        for _ in 0..RACES {
            self.race_create().await?;
            self.race_swap().await?;
        }
        Ok(style)
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    async fn put(&self, name: &str, body: &str, mode: PutMode) -> Result<Stored, RemoteError> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        self.engine.put(&self.key(name), body, &mode, Priority::Foreground).await
    }

    /// What is there now.
    async fn read(&self, name: &str) -> Result<(Vec<u8>, Version), RemoteError> {
        let budget = self.engine.options.deadline;
        let object = self.engine.get(&self.key(name), None, Priority::Foreground, budget).await?;
        Ok((object.bytes.to_vec(), object.meta.version))
    }

    /// As [`Probe::put`], with an unknown answer settled by a look: the body is this put's alone.
    async fn settled_put(
        &self,
        name: &str,
        body: &str,
        mode: PutMode,
    ) -> Result<bool, RemoteError> {
        match self.put(name, body, mode).await {
            Ok(_) => Ok(true),
            Err(RemoteError::Conflict { .. }) => Ok(false),
            Err(RemoteError::Ambiguous { .. }) => Ok(self.read(name).await?.0 == body.as_bytes()),
            Err(error) => Err(error),
        }
    }

    async fn serial_create(&self) -> Result<Stored, RemoteError> {
        let first = self.put("serial", "first", PutMode::Create).await?;
        if self.settled_put("serial", "again", PutMode::Create).await? {
            return Err(ignored("it created an object that was there"));
        }
        Ok(first)
    }

    /// Finds the style in which a right swap wins; in that one, a stale swap must lose.
    async fn serial_swap(&self, first: &Version) -> Result<ConditionStyle, RemoteError> {
        let mut won = None;
        for style in [ConditionStyle::Quoted, ConditionStyle::Unquoted] {
            self.engine.store.set_condition_style(style);
            if self.settled_put("serial", "second", PutMode::Swap(first.clone())).await? {
                won = Some(style);
                break;
            }
        }
        let Some(style) = won else {
            return Err(ignored("it refuses to swap a version that is the current one"));
        };
        if self.settled_put("serial", "stale", PutMode::Swap(first.clone())).await? {
            return Err(ignored("it swapped a version that was no longer the current one"));
        }
        Ok(style)
    }

    async fn race_create(&self) -> Result<(), RemoteError> {
        self.engine.delete(&self.key("created")).await?;
        self.race("created", &PutMode::Create).await
    }

    async fn race_swap(&self) -> Result<(), RemoteError> {
        let start = self.put("raced", "start", PutMode::Any).await?;
        self.race("raced", &PutMode::Swap(start.version().clone())).await
    }

    /// One of many must win, and what is there afterwards must be the winner's. A racer whose
    /// answer is unknown may have won or lost.
    async fn race(&self, name: &str, mode: &PutMode) -> Result<(), RemoteError> {
        let bodies: Vec<_> = (0..RACERS).map(|racer| format!("racer {racer}")).collect();
        let puts = bodies.iter().map(|body| self.put(name, body, mode.clone()));
        let mut winners = Vec::new();
        let mut unknown = 0;
        for (body, answer) in bodies.iter().zip(join_all(puts).await) {
            match answer {
                Ok(_) => winners.push(body.as_bytes()),
                Err(RemoteError::Conflict { .. }) => {}
                Err(RemoteError::Ambiguous { .. }) => unknown += 1,
                Err(error) => return Err(error),
            }
        }
        let (there, _) = self.read(name).await?;
        match winners[..] {
            [winner] if winner == there => Ok(()),
            [_] => Err(ignored("the winner of a race was overwritten by a loser")),
            [] if unknown > 0 => Ok(()),
            [] => Err(ignored("nobody won a race")),
            _ => Err(ignored("several writers won one race")),
        }
    }
}

fn ignored(cause: &str) -> RemoteError {
    RemoteError::NoConditions { cause: cause.to_owned() }
}
