//! A filter as a graph: the same decisions in fewer steps.
//!
//! Whenever a filter is installed, the kernel runs it once for every number that a call can have (`seccomp_cache_prepare` in
//! kernel/seccomp.c), some 450 of them, and each thread of each microVM pays for that. The compiler's programs compare number
//! after number and jump to jumps; here numbers are found by halving, no word is loaded twice, and equal ends are one.

use std::collections::HashMap;

use seccompiler::{BpfProgram, sock_filter};

// From <linux/bpf_common.h>.
const LOAD_WORD: u16 = 0x20;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;

/// The same filter in fewer steps.
///
/// # Panics
/// At an instruction that the compiler makes of no rule in the table.
pub(crate) fn shortened(program: &[sock_filter]) -> BpfProgram {
    let mut graph = Graph::default();
    let start = graph.read(program);
    let start = graph.without_reloads(start, None);
    let start = graph.halved(start);
    graph.write(start)
}

/// A node's place in [`Graph::nodes`], after those that may follow it.
type Id = usize;

/// A step, and what may follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Node {
    /// Decides.
    Return(u32),
    /// Loads the word at an offset into `struct seccomp_data`.
    Load(u32, Id),
    /// Compares the loaded word.
    Branch { code: u16, operand: u32, yes: Id, no: Id },
}

/// Nodes, no two of which are equal.
#[derive(Default)]
struct Graph {
    nodes: Vec<Node>,
    ids: HashMap<Node, Id>,
}

impl Graph {
    fn node(&mut self, node: Node) -> Id {
        *self.ids.entry(node).or_insert_with(|| {
            self.nodes.push(node);
            self.nodes.len() - 1
        })
    }

    /// The first node of `program`.
    fn read(&mut self, program: &[sock_filter]) -> Id {
        // Jumps go forward only, so what follows an instruction is known before it.
        let mut backward: Vec<Id> = Vec::with_capacity(program.len());
        for step in program.iter().rev() {
            let after = |skipped: u32| backward[backward.len() - 1 - skipped as usize];
            let id = match step.code {
                RETURN => self.node(Node::Return(step.k)),
                LOAD_WORD => self.node(Node::Load(step.k, after(0))),
                JUMP => after(step.k),
                code => {
                    let known = [JUMP_IF_EQUAL, JUMP_IF_GREATER, JUMP_IF_GREATER_OR_EQUAL];
                    assert!(
                        known.contains(&code),
                        "no rule needs an instruction of code {code:#x}"
                    );
                    let (yes, no) = (after(step.jt.into()), after(step.jf.into()));
                    self.node(Node::Branch { code, operand: step.k, yes, no })
                }
            };
            backward.push(id);
        }
        backward.pop().expect("a program has instructions")
    }

    /// The same from `id` on, where the word at `loaded` is at hand.
    fn without_reloads(&mut self, id: Id, loaded: Option<u32>) -> Id {
        match self.nodes[id] {
            Node::Return(_) => id,
            Node::Load(offset, next) if loaded == Some(offset) => {
                self.without_reloads(next, loaded)
            }
            Node::Load(offset, next) => {
                let next = self.without_reloads(next, Some(offset));
                self.node(Node::Load(offset, next))
            }
            Node::Branch { code, operand, yes, no } => {
                let yes = self.without_reloads(yes, loaded);
                let no = self.without_reloads(no, loaded);
                self.node(Node::Branch { code, operand, yes, no })
            }
        }
    }

    /// The same from `id` on, where a word that is compared with one value after another is found by halving.
    fn halved(&mut self, id: Id) -> Id {
        let mut cases: Vec<(u32, Id)> = Vec::new();
        let mut otherwise = id;
        while let Node::Branch { code: JUMP_IF_EQUAL, operand, yes, no } = self.nodes[otherwise] {
            // The first comparison with a value is the one that counts.
            if cases.iter().all(|(value, _)| *value != operand) {
                let yes = self.halved(yes);
                cases.push((operand, yes));
            }
            otherwise = no;
        }
        let otherwise = match self.nodes[otherwise] {
            Node::Return(_) => otherwise,
            Node::Load(offset, next) => {
                let next = self.halved(next);
                self.node(Node::Load(offset, next))
            }
            Node::Branch { code, operand, yes, no } => {
                let (yes, no) = (self.halved(yes), self.halved(no));
                self.node(Node::Branch { code, operand, yes, no })
            }
        };
        cases.sort_unstable();
        self.search(&cases, otherwise)
    }

    fn search(&mut self, cases: &[(u32, Id)], otherwise: Id) -> Id {
        let (code, operand, yes, no) = match *cases {
            [] => return otherwise,
            [(value, yes), ref rest @ ..] if rest.len() < 2 => {
                (JUMP_IF_EQUAL, value, yes, self.search(rest, otherwise))
            }
            _ => {
                let (below, from) = cases.split_at(cases.len() / 2);
                let (no, yes) = (self.search(below, otherwise), self.search(from, otherwise));
                (JUMP_IF_GREATER_OR_EQUAL, from[0].0, yes, no)
            }
        };
        self.node(Node::Branch { code, operand, yes, no })
    }

    fn write(&self, start: Id) -> BpfProgram {
        let mut backward = Vec::new();
        self.put(start, &mut backward, &mut HashMap::new());
        backward.into_iter().rev().collect()
    }

    /// Puts a node before those that follow it; its place, from the end.
    fn put(&self, id: Id, backward: &mut BpfProgram, places: &mut HashMap<Id, usize>) -> usize {
        if let Some(place) = places.get(&id) {
            return *place;
        }
        let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
        let skipped = |place: usize, backward: &BpfProgram| backward.len() - 1 - place;
        match self.nodes[id] {
            Node::Return(value) => backward.push(step(RETURN, 0, 0, value)),
            Node::Load(offset, next) => {
                let next = self.put(next, backward, places);
                let between = skipped(next, backward);
                if between > 0 {
                    let between = between.try_into().expect("programs are short");
                    backward.push(step(JUMP, 0, 0, between));
                }
                backward.push(step(LOAD_WORD, 0, 0, offset));
            }
            Node::Branch { code, operand, yes, no } => {
                let no = self.put(no, backward, places);
                let yes = self.put(yes, backward, places);
                let near = |place| {
                    u8::try_from(skipped(place, backward)).expect("a filter has some 100 steps")
                };
                let (yes, no) = (near(yes), near(no));
                backward.push(step(code, yes, no, operand));
            }
        }
        places.insert(id, backward.len() - 1);
        backward.len() - 1
    }
}
