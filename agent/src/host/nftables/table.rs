//! Our table as we left it: so that a change by somebody else is seen, and what it dropped is not forgotten with it.

use pnsbox_agent_core::host::Filter;
use serde::Deserialize;

use super::{FilterDrops, NftError, TABLE, generation, json, load, nft, render};

/// Our table. One owner makes, removes and reads it.
#[derive(Debug, Default)]
pub(crate) struct Table {
    left: Option<Left>,
    /// Of tables that were replaced.
    dropped_before: FilterDrops,
    /// Of the one in place, as last read.
    dropped: FilterDrops,
}

/// The table after our last change.
#[derive(Debug)]
struct Left {
    /// Of the kernel's whole ruleset.
    generation: u32,
    /// As `nft` lists it, without counters; `None` without a table.
    text: Option<String>,
}

impl Table {
    /// Puts a table in place of what was there, at once.
    pub(crate) async fn replace(
        &mut self,
        filter: &Filter,
        interface: &str,
    ) -> Result<(), NftError> {
        self.read_drops().await?;
        load("replace table", &render(filter, interface)).await?;
        self.drops_begin_anew();
        self.remember().await
    }

    /// Removes the table; nothing happens if it is not there.
    pub(crate) async fn remove(&mut self) -> Result<(), NftError> {
        self.read_drops().await?;
        load(
            "remove table",
            &format!("table inet {TABLE}\ndelete table inet {TABLE}\n"),
        )
        .await?;
        self.drops_begin_anew();
        self.remember().await
    }

    /// Whether it is as we left it; lists it only if somebody has changed some table since.
    pub(crate) async fn is_as_left(&mut self) -> Result<bool, NftError> {
        let Some(left) = &mut self.left else {
            return Ok(false);
        };
        let now = generation::read().map_err(NftError::Generation)?;
        if now != left.generation {
            if list().await? != left.text {
                return Ok(false);
            }
            left.generation = now;
        }
        Ok(true)
    }

    /// What our tables have dropped since the start. Only grows, but forgets what a table that somebody else
    /// removed had dropped since it was last asked.
    pub(crate) async fn drops(&mut self) -> Result<FilterDrops, NftError> {
        self.read_drops().await?;
        Ok(self.dropped_before + self.dropped)
    }

    async fn read_drops(&mut self) -> Result<(), NftError> {
        let is_ours = |left: &Left| left.text.is_some();
        if !self.left.as_ref().is_some_and(is_ours) {
            return Ok(());
        }
        match listed_drops().await {
            Ok(drops) if drops.at_least(&self.dropped) => self.dropped = drops,
            // Somebody has made it anew, with our names.
            Ok(drops) => {
                self.drops_begin_anew();
                self.dropped = drops;
            }
            // Somebody has removed it; it is put back elsewhere.
            Err(NftError::Refused { .. }) => self.drops_begin_anew(),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn drops_begin_anew(&mut self) {
        self.dropped_before = self.dropped_before + self.dropped;
        self.dropped = FilterDrops::default();
    }

    async fn remember(&mut self) -> Result<(), NftError> {
        // The number first: a change in between is then seen as one.
        let generation = generation::read().map_err(NftError::Generation)?;
        let text = list().await?;
        self.left = Some(Left { generation, text });
        Ok(())
    }
}

impl FilterDrops {
    fn at_least(&self, other: &Self) -> bool {
        self.inbound >= other.inbound
            && self.outbound >= other.outbound
            && self.local >= other.local
    }
}

impl std::ops::Add for FilterDrops {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            inbound: self.inbound + other.inbound,
            outbound: self.outbound + other.outbound,
            local: self.local + other.local,
        }
    }
}

/// The table without its counters' values; `None` if there is none.
async fn list() -> Result<Option<String>, NftError> {
    match nft("list table", &["-s", "list", "table", "inet", TABLE], "").await {
        Ok(output) => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
        Err(NftError::Refused { .. }) if !exists().await? => Ok(None),
        Err(error) => Err(error),
    }
}

async fn exists() -> Result<bool, NftError> {
    let listed: Listing = json("list tables", &["-j", "list", "tables"]).await?;
    let ours = |table: &Named| table.family == "inet" && table.name == TABLE;
    Ok(listed
        .nftables
        .iter()
        .filter_map(|object| object.table.as_ref())
        .any(ours))
}

async fn listed_drops() -> Result<FilterDrops, NftError> {
    let arguments = ["-j", "list", "counters", "table", "inet", TABLE];
    let listed: Listing = json("list counters", &arguments).await?;
    let counter = |name: &str| {
        let mut counters = listed
            .nftables
            .iter()
            .filter_map(|object| object.counter.as_ref());
        counters.find(|c| c.name == name).map_or(0, |c| c.packets)
    };
    Ok(FilterDrops {
        inbound: counter(render::INBOUND_DROPS),
        outbound: counter(render::OUTBOUND_DROPS),
        local: counter(render::LOCAL_DROPS),
    })
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    table: Option<Named>,
    counter: Option<Counter>,
}

#[derive(Deserialize)]
struct Named {
    family: String,
    name: String,
}

#[derive(Deserialize)]
struct Counter {
    name: String,
    packets: u64,
}
