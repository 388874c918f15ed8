//! The tree that routes hang in: hosts, then the segments of their paths.
//!
//! Comes in: texts, one edge at a time. Goes out: what hangs at the end of a path. All nodes lie in one array and all
//! edges in one hash table of pairs (node, text), so that a step costs the same among ten and among a hundred thousand
//! siblings: one slot and one node, a cache line each (`cargo xtask bench proxy --case routes`). A search never
//! allocates.

use std::collections::BTreeMap;

use super::{Claims, Leaf, pattern::Segment};

/// Where a node lies.
pub(super) type NodeId = u32;

/// Stands for a node that is not there.
const NONE: NodeId = NodeId::MAX;

/// Above the hosts that stand in full.
pub(super) const EXACT: NodeId = 0;
/// Above what follows `*.`.
pub(super) const WILDCARD: NodeId = 1;
/// Above the paths at any host.
pub(super) const ANY: NodeId = 2;

/// Text of an edge that lies in its node; UUIDs and most names do not fit, numbers and words do.
const SHORT_BYTES_MAX: usize = 22;

/// The tree, laid out for searching.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Box<[Node]>,
    /// A power of two, at most half of them taken: an edge is in its own slot or, where that is taken, in the next.
    slots: Box<[Slot]>,
}

/// What may follow one prefix of segments.
#[derive(Debug)]
#[repr(align(64))]
struct Node {
    text: Text,
    parent: NodeId,
    /// The node of `{name}`.
    name: NodeId,
    here: Option<Leaf>,
    rest: Option<Leaf>,
    /// Whether any edge in the table begins here.
    has_literals: bool,
}

// One cache line.
const _: () = assert!(size_of::<Node>() == 64);

/// The text of the edge that leads to a node.
#[derive(Debug)]
enum Text {
    Short { len: u8, bytes: [u8; SHORT_BYTES_MAX] },
    Long(Box<[u8]>),
}

/// A place for an edge.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// What of its hash does not say where it is.
    tag: u32,
    child: NodeId,
}

/// A tree that still grows.
pub(super) struct Growing {
    drafts: Vec<Draft>,
    edges: BTreeMap<(NodeId, Box<str>), NodeId>,
}

/// A node of it.
#[derive(Default)]
struct Draft {
    name: Option<NodeId>,
    here: Claims,
    rest: Claims,
}

impl Growing {
    pub(super) fn new() -> Self {
        let roots = [EXACT, WILDCARD, ANY].map(|_| Draft::default());
        Self { drafts: roots.into(), edges: BTreeMap::new() }
    }

    /// Who has claimed the path of `segments` below `root` so far.
    pub(super) fn claims(&mut self, root: NodeId, segments: &[Segment<'_>]) -> &mut Claims {
        let mut node = root;
        for segment in segments {
            match segment {
                Segment::Literal(text) => node = self.literal(node, text),
                Segment::Name => node = self.name(node),
                Segment::Rest => return &mut self.draft(node).rest,
            }
        }
        &mut self.draft(node).here
    }

    /// The node behind a literal, which is made where there is none yet.
    pub(super) fn literal(&mut self, parent: NodeId, text: &str) -> NodeId {
        let next = next_id(&self.drafts);
        let child = *self.edges.entry((parent, text.into())).or_insert(next);
        if child == next {
            self.drafts.push(Draft::default());
        }
        child
    }

    /// The node behind `{name}`, likewise.
    fn name(&mut self, parent: NodeId) -> NodeId {
        let next = next_id(&self.drafts);
        let child = *self.draft(parent).name.get_or_insert(next);
        if child == next {
            self.drafts.push(Draft::default());
        }
        child
    }

    fn draft(&mut self, node: NodeId) -> &mut Draft {
        #[expect(clippy::indexing_slicing, reason = "an id is only given out for what is pushed")]
        &mut self.drafts[node as usize]
    }

    /// Lays it out; `leaf` makes of claims what a search is to find.
    pub(super) fn lay_out(self, mut leaf: impl FnMut(&Claims) -> Option<Leaf>) -> Tree {
        let node = |draft: Draft| Node {
            text: Text::of(b""),
            parent: NONE,
            name: draft.name.unwrap_or(NONE),
            here: leaf(&draft.here),
            rest: leaf(&draft.rest),
            has_literals: false,
        };
        let mut nodes: Box<[Node]> = self.drafts.into_iter().map(node).collect();
        let count = (self.edges.len() * 2 + 1).next_power_of_two();
        let mut slots = vec![Slot { tag: 0, child: NONE }; count];
        for ((parent, text), child) in self.edges {
            if let Some(node) = nodes.get_mut(child as usize) {
                (node.text, node.parent) = (Text::of(text.as_bytes()), parent);
            }
            if let Some(node) = nodes.get_mut(parent as usize) {
                node.has_literals = true;
            }
            let (tag, start) = hash(parent, text.as_bytes());
            let free = places(count, start).find(|at| slots.get(*at).is_some_and(|slot| slot.child == NONE));
            if let Some(slot) = free.and_then(|at| slots.get_mut(at)) {
                *slot = Slot { tag, child };
            }
        }
        Tree { nodes, slots: slots.into() }
    }
}

impl Tree {
    /// What hangs at the end of a path below the node `id`; `None`: no segment is left.
    pub(super) fn find(&self, id: NodeId, rest: Option<&str>) -> Option<Leaf> {
        let node = self.nodes.get(id as usize)?;
        let Some(rest) = rest else { return node.here };
        let (segment, below) = match rest.split_once('/') {
            Some((segment, below)) => (segment, Some(below)),
            None => (rest, None),
        };
        let literal = || self.find(self.literal(id, segment.as_bytes())?, below);
        let name = || if segment.is_empty() { None } else { self.find(node.name, below) };
        literal().or_else(name).or(node.rest)
    }

    /// The node behind a literal.
    pub(super) fn literal(&self, parent: NodeId, text: &[u8]) -> Option<NodeId> {
        if !self.nodes.get(parent as usize)?.has_literals {
            return None;
        }
        let (tag, start) = hash(parent, text);
        for at in places(self.slots.len(), start) {
            let slot = self.slots.get(at).filter(|slot| slot.child != NONE)?;
            if slot.tag == tag {
                let node = self.nodes.get(slot.child as usize)?;
                if node.parent == parent && node.text.bytes() == text {
                    return Some(slot.child);
                }
            }
        }
        None
    }
}

impl Text {
    fn of(text: &[u8]) -> Self {
        let mut bytes = [0; SHORT_BYTES_MAX];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(start), Ok(len)) => {
                start.copy_from_slice(text);
                Self::Short { len, bytes }
            }
            _ => Self::Long(text.into()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

/// Where the next node will lie.
#[expect(clippy::expect_used, reason = "each node takes more than a byte of the files, which are shorter")]
fn next_id(drafts: &[Draft]) -> NodeId {
    NodeId::try_from(drafts.len()).expect("fewer nodes than bytes of configuration")
}

/// All slots, from the one that is an edge's own.
fn places(count: usize, start: u32) -> impl Iterator<Item = usize> {
    (0..count).map(move |step| (start as usize + step) & (count - 1))
}

/// A tag and the slot to begin with. It keeps no secret: what is in the table comes from the configuration, and
/// whatever a request asks for, the search ends at the next free slot.
fn hash(parent: NodeId, text: &[u8]) -> (u32, u32) {
    let mix = |hash: u64, word: u64| {
        let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        product ^ product >> 32
    };
    let (words, rest) = text.as_chunks();
    let hash = words.iter().fold(u64::from(parent), |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let last = rest.iter().fold(text.len() as u64, |word, byte| word << 8 | u64::from(*byte));
    let hash = mix(hash, last);
    ((hash >> 32) as u32, (hash & 0xffff_ffff) as u32)
}
