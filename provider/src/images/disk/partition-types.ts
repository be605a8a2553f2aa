/** What a partition's type says that it is. */
export interface PartitionType {
  /** For people, with its article. */
  readonly what: string;
  /** Whether a root file system can't be in it, whatever else it holds. */
  readonly isNoRoot?: true;
}

const fileSystem = (what: string): PartitionType => ({ what });
const other = (what: string): PartitionType => ({ what, isNoRoot: true });

/** By the byte in an MBR, two hex digits. A list that nobody keeps officially: as Linux' fdisk has it. */
const MBR_TYPES: Readonly<Record<string, PartitionType>> = {
  "01": other("a FAT12 file system"),
  "04": other("a FAT16 file system"),
  "05": other("an extended partition"),
  "06": other("a FAT16 file system"),
  "07": other("an NTFS or exFAT file system"),
  "0b": other("a FAT32 file system"),
  "0c": other("a FAT32 file system"),
  "0e": other("a FAT16 file system"),
  "0f": other("an extended partition"),
  "42": other("a Windows dynamic disk"),
  "82": other("Linux swap"),
  "83": fileSystem("a Linux file system"),
  "85": other("an extended partition"),
  "8e": other("a Linux LVM volume"),
  a5: other("a FreeBSD slice"),
  bf: other("a Solaris or ZFS partition"),
  da: fileSystem("data without a file system"),
  e8: other("a LUKS partition"),
  ee: other("a protective partition of a GPT"),
  ef: other("an EFI system partition"),
  fd: other("a Linux RAID member"),
};

export const EFI_SYSTEM = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
export const BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649";

/** By GUID, lower case (UEFI's specification, the Discoverable Partitions Specification, and as Linux' fdisk has it). */
const GPT_TYPES: Readonly<Record<string, PartitionType>> = {
  "0fc63daf-8483-4772-8e79-3d69d8477de4": fileSystem("a Linux file system"),
  "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": fileSystem("a Linux root file system (x86-64)"),
  "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": fileSystem("basic data"),
  "8da63339-0007-60c0-c436-083ac8230908": fileSystem("a reserved partition"),
  "933ac7e1-2eb4-4f13-b844-0e14e2aef915": fileSystem("a Linux home file system"),
  "3b8f8425-20e0-4f3b-907f-1a25a76f98e8": fileSystem("a Linux server data file system"),
  "b921b045-1df0-41c3-af44-4c6f280d3fae": other("a Linux root file system (ARM)"),
  "44479540-f297-41b2-9af7-d131d5f0458a": other("a Linux root file system (x86, 32 bits)"),
  "bc13c2ff-59e6-4262-a352-b275fd6f7172": other("an extended boot loader partition"),
  "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": other("Linux swap"),
  "e6d6d379-f507-44c2-a23c-238f2a3df928": other("a Linux LVM volume"),
  "a19d880f-05fc-4d3b-a006-743f0f84911e": other("a Linux RAID member"),
  "ca7d7ccb-63ed-4c53-861c-1742536059cc": other("a LUKS partition"),
  "7ffec5c9-2d00-49b7-8941-3ea10a5586b7": other("a dm-crypt partition"),
  "6a898cc3-1dd2-11b2-99a6-080020736631": other("a ZFS member"),
  "516e7cba-6ecf-11d6-8ff8-00022d09712b": other("a ZFS member"),
  [EFI_SYSTEM]: other("an EFI system partition"),
  [BIOS_BOOT]: other("a BIOS boot partition"),
  "e3c9e316-0b5c-4db8-817d-f92df00215ae": other("a Microsoft reserved partition"),
  "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3": other("a Windows dynamic disk"),
  "af9b60a0-1431-4f62-bc68-3311714a69ad": other("a Windows dynamic disk"),
};

/** @param type a partition's, as its table has it */
export function partitionType(type: string): PartitionType {
  return MBR_TYPES[type] ?? GPT_TYPES[type] ?? fileSystem(`a partition of type ${type}`);
}

/** Whether an MBR's entry is the frame of logical partitions. */
export function isExtended(type: number): boolean {
  return type === 0x05 || type === 0x0f || type === 0x85;
}
