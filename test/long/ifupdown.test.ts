import { describeNetworkStack } from "../acceptance/network-stacks";

describeNetworkStack("ifupdown", "B");
