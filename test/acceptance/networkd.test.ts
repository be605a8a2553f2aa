import { describeNetworkStack } from "./network-stacks";

describeNetworkStack("networkd", "A");
