/** Numbers and `first-last` ranges, in order, each once. @throws RangeError naming the item that is wrong */
export function vlansOf(list: ReadonlyArray<number | string>): number[] {
  const vlans = list.flatMap((item) => {
    const [, first, last = first] = /^(\d{1,4})(?:-(\d{1,4}))?$/.exec(String(item)) ?? [];
    const [low, high] = [Number(first), Number(last)];
    if (!(low >= 2 && low <= high && high <= 4094)) {
      throw new RangeError(`"${item}" is not a VLAN from 2 to 4094, or a first-last range of them`);
    }
    return Array.from({ length: high - low + 1 }, (_, index) => low + index);
  });
  return [...new Set(vlans)];
}
