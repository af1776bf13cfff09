//! What the kernel's command line says: the windows, the case and its numbers.

use crate::layout::COMMAND_LINE_BYTES;
use crate::machine;

/// Windows that are looked at.
const WINDOWS_MAX: usize = 16;
/// Offset of `cmd_line_ptr` in `boot_params` (Linux, Documentation/arch/x86/boot.rst).
const POINTER_OFFSET: u64 = 0x228;

/// The command line, understood.
#[derive(Debug)]
pub(crate) struct CommandLine<'a> {
    /// Addresses of virtio-mmio windows; the rest is 0.
    pub(crate) windows: [u64; WINDOWS_MAX],
    /// `hostile.case=`
    pub(crate) case: &'a str,
    /// `hostile.seed=`
    pub(crate) seed: u64,
    /// `hostile.scale=`: how often the cases that repeat themselves do so, in percent.
    pub(crate) scale: u64,
    /// `hostile.steps=`: the random case's.
    pub(crate) steps: u64,
    /// `hostile.vmm=firecracker`
    pub(crate) is_firecracker: bool,
}

impl<'a> CommandLine<'a> {
    /// Reads it from where `boot_params` says.
    pub(crate) fn read(boot_params: u64, text: &'a mut [u8; COMMAND_LINE_BYTES]) -> Self {
        let at = u64::from(machine::read32(boot_params + POINTER_OFFSET));
        for (address, byte) in (at..).zip(text.iter_mut()) {
            *byte = machine::read8(address);
            if *byte == 0 {
                break;
            }
        }
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(0);
        Self::parse(core::str::from_utf8(&text[..end]).unwrap_or_default())
    }

    fn parse(text: &'a str) -> Self {
        let mut line = Self {
            windows: [0; WINDOWS_MAX],
            case: "",
            seed: 1,
            scale: 100,
            steps: 1000,
            is_firecracker: false,
        };
        let mut windows = 0;
        for word in text.split_ascii_whitespace() {
            let Some((name, value)) = word.split_once('=') else { continue };
            match name {
                "virtio_mmio.device" if windows < WINDOWS_MAX => {
                    line.windows[windows] = window(value).unwrap_or(0);
                    windows += 1;
                }
                "hostile.case" => line.case = value,
                "hostile.seed" => line.seed = value.parse().unwrap_or(1),
                "hostile.scale" => line.scale = value.parse().unwrap_or(100),
                "hostile.steps" => line.steps = value.parse().unwrap_or(1000),
                "hostile.vmm" => line.is_firecracker = value == "firecracker",
                _ => {}
            }
        }
        line
    }

    /// `count` repetitions, scaled; at least one.
    pub(crate) fn times(&self, count: u64) -> u64 {
        (count * self.scale / 100).max(1)
    }
}

/// The address in `4K@0xd0000000:5`.
fn window(value: &str) -> Option<u64> {
    let (_, rest) = value.split_once("@0x")?;
    let (address, _) = rest.split_once(':')?;
    u64::from_str_radix(address, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::CommandLine;

    #[test]
    fn windows_and_numbers_are_found_among_other_words() {
        let line = CommandLine::parse(
            "reboot=t quiet virtio_mmio.device=4K@0xd0000000:5 hostile.case=a-b virtio_mmio.device=4K@0xc0001000:6 \
             hostile.seed=77 hostile.steps=5 hostile.scale=250",
        );
        assert_eq!(line.windows[..3], [0xd000_0000, 0xc000_1000, 0]);
        assert_eq!((line.case, line.seed, line.steps, line.times(10)), ("a-b", 77, 5, 25));
        assert!(
            !line.is_firecracker && CommandLine::parse("hostile.vmm=firecracker").is_firecracker
        );
    }

    #[test]
    fn a_window_that_makes_no_sense_is_none() {
        let line = CommandLine::parse("virtio_mmio.device=4K virtio_mmio.device=4K@0xzz:1");
        assert_eq!(line.windows[..2], [0, 0]);
    }
}
