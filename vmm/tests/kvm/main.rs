//! The real program with guests of a few instructions. Needs /dev/kvm and fails without; any KVM will do, one that
//! cannot boot Linux as well.

#[cfg(test)]
mod cgroup;
#[cfg(test)]
mod deadline;
#[cfg(test)]
mod ends;
#[cfg(test)]
mod files;
#[cfg(test)]
mod filters;
#[cfg(test)]
mod guest;
#[cfg(test)]
mod order;
#[cfg(test)]
mod pause;
#[cfg(test)]
mod shell;
#[cfg(test)]
mod start;
