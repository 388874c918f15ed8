//! What an eBPF object file holds, read without help: its sections.
//!
//! Comes in: the bytes of a little-endian ELF64 file. Goes out: names and sizes of the sections. It follows no
//! relocation and trusts no offset. Source: the System V ABI, chapters "ELF Header" and "Sections".

use anyhow::{Context as _, Result, ensure};

/// A section of the object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Section {
    /// Its name, as `xdp` or `.BTF`.
    pub(crate) name: String,
    /// Its size in the file.
    pub(crate) bytes: u64,
    /// Whether it holds instructions.
    pub(crate) executable: bool,
}

/// `SHF_EXECINSTR`
const EXECUTABLE: u64 = 4;
/// Every eBPF instruction takes 8 bytes; a 64-bit load takes two of them.
const INSTRUCTION_BYTES: u64 = 8;

impl Section {
    /// How many instruction slots it holds.
    pub(crate) fn instructions(&self) -> u64 {
        if self.executable { self.bytes / INSTRUCTION_BYTES } else { 0 }
    }
}

/// All sections in the order of the file; an error says in which respect it is no such ELF file.
pub(crate) fn sections(elf: &[u8]) -> Result<Vec<Section>> {
    ensure!(elf.starts_with(b"\x7fELF\x02\x01"), "not a little-endian ELF64 file");
    let table = number(elf, 40, 8)?; // e_shoff
    let entry_bytes = number(elf, 58, 2)?; // e_shentsize
    let count = number(elf, 60, 2)?; // e_shnum
    let names_index = number(elf, 62, 2)?; // e_shstrndx
    let header = |index: u64| table.checked_add(index * entry_bytes).context("the section table overflows");

    let names = number(elf, header(names_index)?.saturating_add(24), 8)?; // sh_offset
    (0..count)
        .map(|index| {
            let header = header(index)?;
            let field = |offset, bytes| number(elf, header.saturating_add(offset), bytes);
            Ok(Section {
                name: text(elf, names.saturating_add(field(0, 4)?))?, // sh_name
                bytes: field(32, 8)?,                                 // sh_size
                executable: field(8, 8)? & EXECUTABLE != 0,           // sh_flags
            })
        })
        .collect()
}

/// The little-endian number of `bytes` bytes at `offset`.
fn number(elf: &[u8], offset: u64, bytes: usize) -> Result<u64> {
    let start = usize::try_from(offset)?;
    let end = start.checked_add(bytes).context("an offset overflows")?;
    let field = elf.get(start..end).with_context(|| format!("the file ends before offset {end}"))?;
    Ok(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// The NUL-terminated text at `offset`.
fn text(elf: &[u8], offset: u64) -> Result<String> {
    let rest = elf.get(usize::try_from(offset)?..).context("a name lies outside the file")?;
    let end = rest.iter().position(|byte| *byte == 0).context("a name has no end")?;
    Ok(String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file of three sections: the null section, `xdp` with two instructions, and the names.
    fn elf() -> Vec<u8> {
        let names = b"\0xdp\0.shstrtab\0";
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file.extend_from_slice(names);
        file.resize(80, 0);
        file[40] = 80;
        file[58] = 64;
        file[60] = 3;
        file[62] = 2;
        for (name, flags, offset, bytes) in [(0, 0, 0, 0), (1, 4, 64, 16), (5, 0, 64, 15)] {
            let mut header = vec![0; 64];
            (header[0], header[8], header[24], header[32]) = (name, flags, offset, bytes);
            file.extend_from_slice(&header);
        }
        file
    }

    #[test]
    fn sections_have_names_sizes_and_instructions() {
        let sections = sections(&elf()).unwrap();
        let seen: Vec<_> = sections.iter().map(|s| (s.name.as_str(), s.bytes, s.instructions())).collect();
        assert_eq!(seen, [("", 0, 0), ("xdp", 16, 2), (".shstrtab", 15, 0)]);
    }

    #[test]
    fn a_file_that_ends_early_is_refused() {
        let whole = elf();
        for end in 0..whole.len() - 24 {
            assert!(sections(&whole[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn another_format_is_refused() {
        let mut big_endian = elf();
        big_endian[5] = 2;
        assert!(sections(&big_endian).is_err());
    }
}
