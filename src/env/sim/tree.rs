//! Names and nodes of the simulated disk: which directory names what, now and after a crash.
//!
//! ```text
//!   node 0: root dir      entries  { "orders-0": 1 }          durable { "orders-0": 1 }
//!   node 1: dir           entries  { "b.log": 2 }             durable { "a.log": 2 }
//!   node 2: file
//!   unsynced  [ { 1/"a.log" -> nothing, 1/"b.log" -> 2 } ]    the rename a.log -> b.log: one change, two edits
//! ```
//!
//! Every call that changes names is one `NameChange`: create, mkdir and link set a name, remove clears one, rename does
//! both at once. So a rename is atomic after a crash too, whatever else is lost.
//!
//! Invariants
//! - `links` counts the entries (not the durable ones) that name a node; a node without links and handles is dead, counts
//!   for no space, and is dropped where no crash is tracked.
//! - A change becomes durable only together with every earlier one on the same names, as in a journal: a name is never
//!   found in a state it did not have, nor a renamed file under both of its names.
//!
//! What is not here: faults and the kill switch (`faults`), errors of access modes (`mod`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};

use super::content::{Content, Tracking};
use super::crash::{CrashChoice, Rng};
use crate::env::fs::{DirEntry, FileKind};
use crate::types::Timestamp;

/// Names a node for as long as it exists; never used again.
pub(super) type NodeId = u64;

const ROOT: NodeId = 0;

/// All of a disk.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<NodeId, Node>,
    next: NodeId,
    unsynced: Vec<NameChange>,
    tracking: Tracking,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) body: Body,
    pub(super) modified: Timestamp,
    pub(super) handles: usize,
    pub(super) links: usize,
}

#[derive(Debug)]
pub(super) enum Body {
    File(Content),
    Dir(Dir),
}

#[derive(Debug, Default)]
pub(super) struct Dir {
    entries: BTreeMap<String, NodeId>,
    durable: BTreeMap<String, NodeId>,
}

/// A directory and a name in it, whether or not it names something.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    pub(super) dir: NodeId,
    pub(super) name: String,
}

#[derive(Clone, Debug)]
struct NameChange(Vec<Edit>);

#[derive(Clone, Debug)]
struct Edit {
    place: Place,
    names: Option<NodeId>,
}

impl NameChange {
    fn touches(&self, places: &BTreeSet<Place>) -> bool {
        self.0.iter().any(|edit| places.contains(&edit.place))
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        self.0.iter().map(|edit| edit.place.clone())
    }
}

impl Tree {
    pub(super) fn new(tracking: Tracking) -> Self {
        let mut tree = Self {
            nodes: BTreeMap::new(),
            next: ROOT,
            unsynced: Vec::new(),
            tracking,
        };
        let root = tree.add(Body::Dir(Dir::default()), Timestamp(0));
        tree.node_mut(root).links = 1;
        tree
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[&id]
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("nodes outlive what names them")
    }

    /// Returns the content of a node known to be a file.
    pub(super) fn content_mut(&mut self, id: NodeId) -> &mut Content {
        match &mut self.node_mut(id).body {
            Body::File(content) => content,
            Body::Dir(_) => unreachable!("only files are opened"),
        }
    }

    pub(super) fn content(&self, id: NodeId) -> &Content {
        match &self.node(id).body {
            Body::File(content) => content,
            Body::Dir(_) => unreachable!("only files are opened"),
        }
    }

    pub(super) fn kind(&self, id: NodeId) -> FileKind {
        match self.node(id).body {
            Body::File(_) => FileKind::File,
            Body::Dir(_) => FileKind::Dir,
        }
    }

    /// Returns what `path` names.
    pub(super) fn find(&self, path: &Path) -> io::Result<NodeId> {
        self.walk(&components(path)?)
    }

    /// Returns where `path` is or would be named; its directory exists.
    pub(super) fn place(&self, path: &Path) -> io::Result<Place> {
        let mut names = components(path)?;
        let name = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = self.walk(&names)?;
        self.dir(dir)?;
        Ok(Place { dir, name })
    }

    /// Returns what stands at `place`, if anything.
    pub(super) fn at(&self, place: &Place) -> Option<NodeId> {
        self.dir(place.dir).ok()?.entries.get(&place.name).copied()
    }

    pub(super) fn list(&self, dir: NodeId) -> io::Result<Vec<DirEntry>> {
        let entries = self.dir(dir)?.entries.iter();
        Ok(entries
            .map(|(name, id)| DirEntry {
                name: name.clone(),
                kind: self.kind(*id),
            })
            .collect())
    }

    pub(super) fn create_file(&mut self, place: Place, now: Timestamp) -> NodeId {
        let id = self.add(Body::File(Content::empty(self.tracking)), now);
        self.change(
            vec![Edit {
                place,
                names: Some(id),
            }],
            now,
        );
        id
    }

    pub(super) fn create_dir(&mut self, place: Place, now: Timestamp) {
        let id = self.add(Body::Dir(Dir::default()), now);
        self.change(
            vec![Edit {
                place,
                names: Some(id),
            }],
            now,
        );
    }

    pub(super) fn link(&mut self, id: NodeId, to: Place, now: Timestamp) {
        self.change(
            vec![Edit {
                place: to,
                names: Some(id),
            }],
            now,
        );
    }

    pub(super) fn rename(&mut self, from: Place, to: Place, now: Timestamp) {
        let id = self.at(&from);
        self.change(
            vec![
                Edit {
                    place: from,
                    names: None,
                },
                Edit { place: to, names: id },
            ],
            now,
        );
    }

    pub(super) fn remove(&mut self, place: Place, now: Timestamp) {
        self.change(vec![Edit { place, names: None }], now);
    }

    /// Removes what is in a directory, bottom up, one name after the other, at most `limit` names; returns how many.
    pub(super) fn clear_dir(&mut self, dir: NodeId, now: Timestamp, limit: usize) -> usize {
        let entries: Vec<(String, NodeId)> = match &self.node(dir).body {
            Body::Dir(dir) => dir.entries.clone().into_iter().collect(),
            Body::File(_) => return 0,
        };
        let mut removed = 0;
        for (name, id) in entries {
            removed += self.clear_dir(id, now, limit - removed);
            if removed == limit {
                break;
            }
            self.remove(Place { dir, name }, now);
            removed += 1;
        }
        removed
    }

    pub(super) fn is_empty_dir(&self, id: NodeId) -> bool {
        matches!(&self.node(id).body, Body::Dir(dir) if dir.entries.is_empty())
    }

    /// Tells whether `dir` is `ancestor` or lies below it.
    pub(super) fn lies_in(&self, dir: NodeId, ancestor: NodeId) -> bool {
        dir == ancestor
            || match &self.node(ancestor).body {
                Body::Dir(body) => body.entries.values().any(|child| self.lies_in(dir, *child)),
                Body::File(_) => false,
            }
    }

    /// Makes the names in `dir` survive a crash, and what they follow from.
    pub(super) fn sync_dir(&mut self, dir: NodeId) -> io::Result<()> {
        self.dir(dir)?;
        let mut needed = BTreeSet::new();
        let mut chosen = vec![false; self.unsynced.len()];
        for (change, chosen) in self.unsynced.iter().zip(&mut chosen).rev() {
            if change.0.iter().any(|edit| edit.place.dir == dir) || change.touches(&needed) {
                needed.extend(change.places());
                *chosen = true;
            }
        }
        for (change, chosen) in std::mem::take(&mut self.unsynced).into_iter().zip(chosen) {
            if chosen {
                self.make_durable(&change);
            } else {
                self.unsynced.push(change);
            }
        }
        Ok(())
    }

    /// Closes one handle of a file.
    pub(super) fn close(&mut self, id: NodeId) {
        self.node_mut(id).handles -= 1;
        self.bury(id);
    }

    /// Returns the bytes of all living files.
    pub(super) fn used_bytes(&self) -> u64 {
        let living = self.nodes.values().filter(|node| node.links + node.handles > 0);
        living
            .map(|node| match &node.body {
                Body::File(content) => content.len_bytes(),
                Body::Dir(_) => 0,
            })
            .sum()
    }

    #[cfg(test)]
    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Returns the tree as a crash leaves it.
    pub(super) fn after_crash(&self, choice: CrashChoice, rng: &mut Rng) -> Self {
        let mut names = BTreeMap::new();
        for (&id, node) in &self.nodes {
            if let Body::Dir(dir) = &node.body {
                let entries = match self.tracking {
                    Tracking::On => &dir.durable,
                    Tracking::Off => &dir.entries,
                };
                names.insert(id, entries.clone());
            }
        }
        for change in self.surviving(choice, rng) {
            for edit in &change.0 {
                edit.apply(
                    names
                        .get_mut(&edit.place.dir)
                        .expect("a tracked directory is never dropped"),
                );
            }
        }
        let mut found = Self {
            nodes: BTreeMap::new(),
            next: self.next,
            unsynced: Vec::new(),
            tracking: self.tracking,
        };
        self.copy_reachable(ROOT, &names, &mut found, &mut |content: &Content| {
            content.after_crash(choice, rng)
        });
        found
    }

    fn surviving(&self, choice: CrashChoice, rng: &mut Rng) -> Vec<&NameChange> {
        match choice {
            CrashChoice::LoseAll => Vec::new(),
            CrashChoice::KeepAll => self.unsynced.iter().collect(),
            CrashChoice::Random(_) => {
                let kept_in_eight = rng.below(8);
                let mut lost = BTreeSet::new();
                let mut kept = Vec::new();
                for change in &self.unsynced {
                    if change.touches(&lost) || rng.below(8) >= kept_in_eight {
                        lost.extend(change.places());
                    } else {
                        kept.push(change);
                    }
                }
                kept
            }
        }
    }

    /// Copies `id` and what it leads to by `names` into `found`, once for every name that leads there.
    fn copy_reachable(
        &self,
        id: NodeId,
        names: &BTreeMap<NodeId, BTreeMap<String, NodeId>>,
        found: &mut Self,
        file_found: &mut impl FnMut(&Content) -> Content,
    ) {
        if let Some(known) = found.nodes.get_mut(&id) {
            known.links += 1;
            return;
        }
        let node = self.node(id);
        let body = match &node.body {
            Body::File(content) => Body::File(file_found(content)),
            Body::Dir(_) => Body::Dir(Dir {
                entries: names[&id].clone(),
                durable: names[&id].clone(),
            }),
        };
        let copy = Node {
            body,
            modified: node.modified,
            handles: 0,
            links: 1,
        };
        found.nodes.insert(id, copy);
        for child in names.get(&id).into_iter().flat_map(BTreeMap::values) {
            self.copy_reachable(*child, names, found, file_found);
        }
    }

    fn walk(&self, names: &[String]) -> io::Result<NodeId> {
        let mut id = ROOT;
        for name in names {
            id = *self.dir(id)?.entries.get(name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(id)
    }

    fn dir(&self, id: NodeId) -> io::Result<&Dir> {
        match &self.node(id).body {
            Body::Dir(dir) => Ok(dir),
            Body::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn dir_mut(&mut self, id: NodeId) -> &mut Dir {
        match &mut self.node_mut(id).body {
            Body::Dir(dir) => dir,
            Body::File(_) => unreachable!("places lie in directories"),
        }
    }

    fn add(&mut self, body: Body, now: Timestamp) -> NodeId {
        let id = self.next;
        self.next += 1;
        let node = Node {
            body,
            modified: now,
            handles: 0,
            links: 0,
        };
        self.nodes.insert(id, node);
        id
    }

    fn change(&mut self, edits: Vec<Edit>, now: Timestamp) {
        let mut unnamed = Vec::new();
        for edit in &edits {
            self.node_mut(edit.place.dir).modified = now;
            unnamed.extend(edit.apply(&mut self.dir_mut(edit.place.dir).entries));
            if let Some(id) = edit.names {
                self.node_mut(id).links += 1;
            }
        }
        for id in unnamed {
            self.node_mut(id).links -= 1;
            self.bury(id);
        }
        if self.tracking == Tracking::On {
            self.unsynced.push(NameChange(edits));
        }
    }

    fn make_durable(&mut self, change: &NameChange) {
        for edit in &change.0 {
            edit.apply(&mut self.dir_mut(edit.place.dir).durable);
        }
    }

    /// Drops a node that nothing leads to; with tracking on, a crash may yet bring it back.
    fn bury(&mut self, id: NodeId) {
        let node = self.node(id);
        if self.tracking == Tracking::Off && node.links + node.handles == 0 {
            self.nodes.remove(&id);
        }
    }
}

impl Edit {
    /// Returns what the name stood for before.
    fn apply(&self, entries: &mut BTreeMap<String, NodeId>) -> Option<NodeId> {
        match self.names {
            Some(id) => entries.insert(self.place.name.clone(), id),
            None => entries.remove(&self.place.name),
        }
    }
}

/// Splits a path at the root; the working directory is the root.
fn components(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir => {
                names.pop();
            }
            Component::Normal(name) => {
                names.push(name.to_str().ok_or(io::ErrorKind::InvalidInput)?.to_owned())
            }
            Component::Prefix(_) => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    Ok(names)
}
