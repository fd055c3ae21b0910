// Command labtool holds the small helpers of the lab's cluster: certificates, the first process of a node and the provisioner of
// volumes.
package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

var commands = map[string]func(args []string) error{
	"certs":     certs,
	"init":      initNode,
	"node":      startNode,
	"provision": provision,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintf(os.Stderr, "usage: labtool %s [ARGUMENT]...\n", strings.Join(slices.Sorted(maps.Keys(commands)), "|"))
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "labtool %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}
