/* 32-bit ELF files (System V ABI, chapters 4 and 5). */
#ifndef ELF_H
#define ELF_H
#include "flat.h"

#define ELF_MAGIC 0x464C457F
struct elf_header {
    u32 magic;
    u8 ident[12];
    u16 type, machine;
    u32 version, entry, segments, sections, flags;
    u16 size, segment_size, n_segments, section_size, n_sections, names;
};
struct elf_segment {
    u32 type, offset, virtual, physical, file_size, memory_size, flags, align;
};

#endif
