#!/usr/bin/env python3
"""Reads an archive of Siltstone from a folder, with nothing of Siltstone: the format is told in docs/archive-format.md.

    read_archive.py FOLDER                      lists topics, partitions and segments, and checks every byte of them
    read_archive.py FOLDER TOPIC [PARTITION]    prints the records, one JSON object on a line, in the order of offsets
    read_archive.py --object FILE               prints the records of one segment object, with nothing beside it

Needs the standard library, and for batches in snappy, lz4 or zstd the package `cramjam`. A bucket is first copied to a folder by the
tools of its cloud. Markers of transactions are left out, records of aborted transactions are not.
"""
import base64
import json
import struct
import sys
import zlib
from pathlib import Path

OBJECT = ">qiQ"
SUMMARY = ">BBBIqqQQIIIIQQqq"


def check(holds, what):
    if not holds:
        sys.exit(f"read_archive: {what}")


class Fields:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, layout):
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return values if len(values) > 1 else values[0]

    def bytes(self, length):
        self.at += length
        return self.data[self.at - length : self.at]

    def short(self):
        return self.bytes(self.take(">H")).decode()

    def long(self):
        length = self.varint()
        return self.bytes(length) if length >= 0 else None

    def varint(self):
        value = shift = 0
        while (byte := self.take(">B")) & 0x80:
            value, shift = value | (byte & 0x7F) << shift, shift + 7
        value |= byte << shift
        return (value >> 1) ^ -(value & 1)


def ledger(folder, kind):
    """The entries of a ledger from its newest snapshot on: (is it a snapshot, its body)."""
    newest = max((int(file.name) for file in folder.glob("[0-9]*") if file.name.isdigit()), default=-1)
    entries, previous = [], None
    for number in range(max(newest, 0) // 64 * 64, newest + 1):
        file = folder / f"{number:020}"
        data = file.read_bytes()
        fields = struct.unpack_from(">8sHBBi16sQQqII", data)
        magic, version, its_kind, form, _epoch, _writer, its_number, _snapshot, _written, before, length = fields
        check(magic == b"SILTLEDG" and version == 1, f"{file} is no entry of a ledger of version 1")
        sound = zlib.crc32(data[:-4]) == int.from_bytes(data[-4:]) and (its_kind, its_number) == (kind, number)
        check(sound, f"{file} is damaged, or belongs elsewhere")
        check(previous in (None, before), f"{file} does not follow the entry before it")
        previous = zlib.crc32(data)
        entries.append((form == 2, Fields(data[64 : 64 + length])))
    return entries


def catalog(folder):
    """Topics by id: name and number of partitions."""
    topics = {}
    for is_snapshot, body in ledger(folder / "catalog", 2):
        topics = {} if is_snapshot else topics
        for _ in range(body.take(">I")):
            edit = 1 if is_snapshot else body.take(">B")
            topic = body.take("16s").hex()
            if edit == 1:
                topics[topic] = (body.short(), body.take(">i"))
                for _ in range(body.take(">H")):
                    body.short(), body.short()
            elif edit == 2:
                del topics[topic]
    return topics


def take_segment(body):
    base, epoch, attempt = body.take(OBJECT)
    _bytes, footer_len, footer_crc, _flags, length = body.take(">QIIIH")
    summary = struct.unpack_from(SUMMARY, body.bytes(length))
    key = f"{base:020}-{epoch:010}-{attempt:016x}.segment"
    return base, {"key": key, "next": summary[5], "records": summary[7], "footer": (footer_len, footer_crc)}


def manifest(folder):
    """Segments of a partition, by base offset; each tells where the log starts."""
    segments, start = {}, 0
    for is_snapshot, body in ledger(folder / "manifest", 3):
        body.take("16s"), body.take(">i")
        if is_snapshot:
            start = body.take(">q")
            segments = dict(take_segment(body) for _ in range(body.take(">I")))
            continue
        for _ in range(body.take(">I")):
            edit = body.take(">B")
            start = body.take(">q") if edit == 4 else start
            gone = [body.take(OBJECT)[0] for _ in range(body.take(">I"))] if edit in (2, 3, 5) else []
            for base in gone if edit != 5 else []:
                del segments[base]
            if edit in (1, 2):
                segments.update(take_segment(body) for _ in range(1 if edit == 1 else body.take(">I")))
    return [(base, segments[base] | {"start": start}) for base in sorted(segments)]


def segment_log(file, expected=None):
    """The log of a segment object; every checksum of the object is checked."""
    data = file.read_bytes()
    position, length, crc, version, _reserved, its_crc, magic = struct.unpack(">QIIHHI8s", data[-32:])
    check(magic == b"SILTSEG\0" and version == 1, f"{file} is no segment of version 1")
    body = Fields(data[position : position + length])
    sound = zlib.crc32(data[-32:-12]) == its_crc and position + length + 32 == len(data) and zlib.crc32(body.data) == crc
    check(sound, f"{file}: its footer is damaged")
    check(expected in (None, (length, crc)), f"{file} is not what the manifest names")
    *_, chunk_bytes, chunks, sections, name_len, summary_len, transform, _reserved = body.take(">16siiQqIIHHHHQ")
    check(transform == 0, f"{file}: its chunks went through transform {transform}")
    body.bytes(name_len)
    log_bytes = struct.unpack_from(SUMMARY, body.bytes(summary_len))[6]
    for chunk in range(chunks):
        crc, _reserved = body.take(">II")
        part = data[chunk * chunk_bytes : min((chunk + 1) * chunk_bytes, log_bytes)]
        check(zlib.crc32(part) == crc, f"{file}: chunk {chunk} is damaged")
    for _ in range(sections):
        kind, entry_len, page_bytes, at, size, _reserved = body.take(">HHIQQQ")
        pages = -(-size // page_bytes)
        for page, crc in enumerate(struct.unpack(f">{pages}I", body.bytes(4 * pages))):
            part = data[at + page * page_bytes : min(at + (page + 1) * page_bytes, at + size)]
            check(zlib.crc32(part) == crc, f"{file}: page {page} of section {kind} is damaged")
        body.bytes(pages * entry_len)
    return data[:log_bytes]


def decompress(codec, data):
    if codec in (0, 1):
        return zlib.decompress(data, wbits=31) if codec else data
    import cramjam

    if codec == 2 and data[:8] == b"\x82SNAPPY\0":
        blocks, plain = Fields(data[16:]), b""
        while blocks.at < len(blocks.data):
            plain += bytes(cramjam.snappy.decompress_raw(blocks.bytes(blocks.take(">i"))))
        return plain
    return bytes({2: cramjam.snappy.decompress_raw, 3: cramjam.lz4.decompress, 4: cramjam.zstd.decompress}[codec](data))


def text(data):
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def records(log, start=0):
    """The records of a log from an offset on: offset, time, key, value, headers."""
    at = 0
    while at < len(log):
        base, length, _epoch, _magic, _crc, attributes, _last, first_time, last_time, *_, count = struct.unpack_from(">qiibIhiqqqhii", log, at)
        if not attributes & 0x20:
            body = Fields(decompress(attributes & 7, log[at + 61 : at + 12 + length]))
            for _ in range(count):
                body.varint(), body.take(">b")
                time, offset = first_time + body.varint(), base + body.varint()
                key, value = body.long(), body.long()
                headers = [[body.long(), body.long()] for _ in range(body.varint())]
                record = {"offset": offset, "timestamp": last_time if attributes & 8 else time, "key": key, "value": value}
                yield from [record | {"headers": headers}] if offset >= start else []
        at += 12 + length


def main(arguments):
    if arguments[:1] == ["--object"]:
        return [print(json.dumps(record, default=text)) for record in records(segment_log(Path(arguments[1])))]
    check(1 <= len(arguments) <= 3 and not arguments[0].startswith("-"), __doc__)
    folder = Path(arguments[0])
    for topic, (name, partitions) in sorted(catalog(folder).items(), key=lambda item: item[1]):
        for partition in range(partitions):
            if arguments[1:] not in ([], [name], [name, str(partition)]):
                continue
            place = folder / "topics" / name / topic / str(partition)
            for base, segment in manifest(place):
                log = segment_log(place / "segments" / segment["key"], segment["footer"])
                if len(arguments) == 1:
                    print(f"{name}-{partition} {base} to {segment['next'] - 1}: {segment['records']} records, {len(log)} bytes")
                for record in records(log, segment["start"]) if len(arguments) > 1 else []:
                    print(json.dumps({"topic": name, "partition": partition} | record, default=text))


main(sys.argv[1:])
