// Runs client-go's operations against a cluster and prints what they returned, one JSON document a line.
//
// Usage: PROGRAM SCHEDULER SCENARIO
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/pingcap/log"
	"github.com/tikv/client-go/v2/config"
	"github.com/tikv/client-go/v2/kv"
	"github.com/tikv/client-go/v2/rawkv"
	"github.com/tikv/client-go/v2/txnkv"
)

func show(name string, value interface{}) {
	line, err := json.Marshal([]interface{}{name, value})
	check(err)
	fmt.Println(string(line))
}

func check(err error) {
	if err != nil {
		show("failed", err.Error())
		os.Exit(1)
	}
}

func key(prefix string, number int) []byte { return []byte(fmt.Sprintf("%s%05d", prefix, number)) }

func raw(ctx context.Context, address string) {
	client, err := rawkv.NewClient(ctx, []string{address}, config.DefaultConfig().Security)
	check(err)
	defer client.Close()
	check(client.Put(ctx, []byte("go/raw/a"), []byte("1")))
	check(client.BatchPut(ctx, [][]byte{[]byte("go/raw/b"), []byte("go/raw/c")}, [][]byte{[]byte("2"), []byte("3")}))
	value, err := client.Get(ctx, []byte("go/raw/a"))
	check(err)
	show("get", string(value))
	keys, _, err := client.Scan(ctx, []byte("go/raw/"), []byte("go/raw0"), 10)
	check(err)
	show("scan", len(keys))
	check(client.Delete(ctx, []byte("go/raw/a")))
	check(client.DeleteRange(ctx, []byte("go/raw/b"), []byte("go/raw/z")))
	keys, _, err = client.Scan(ctx, []byte("go/raw/"), []byte("go/raw0"), 10)
	check(err)
	show("scan after deletes", len(keys))
}

// Writes in every way that client-go has to commit, and reads over the bounds of regions.
func transactions(ctx context.Context, client *txnkv.Client) {
	_, err := client.SplitRegions(ctx, [][]byte{key("go/async/", 5), key("go/two-phase/", 3)}, false, nil)
	check(err)
	for _, way := range []string{"two-phase", "async", "one-phase"} {
		txn, err := client.Begin()
		check(err)
		txn.SetEnableAsyncCommit(way == "async")
		txn.SetEnable1PC(way == "one-phase")
		for number := 0; number < 10; number++ {
			check(txn.Set(key("go/"+way+"/", number), []byte(way)))
		}
		check(txn.Commit(ctx))
		read, err := client.Begin()
		check(err)
		rows, err := read.Iter([]byte("go/"+way+"/"), []byte("go/"+way+"0"))
		check(err)
		count := 0
		for rows.Valid() {
			count++
			check(rows.Next())
		}
		show(way, count)
		check(read.Rollback())
	}
	left, err := client.Begin()
	check(err)
	right, err := client.Begin()
	check(err)
	check(left.Set([]byte("go/conflict"), []byte("left")))
	check(right.Set([]byte("go/conflict"), []byte("right")))
	check(left.Commit(ctx))
	show("conflict", right.Commit(ctx) != nil)
}

func lock(ctx context.Context, client *txnkv.Client, counter []byte) error {
	txn, err := client.Begin()
	if err != nil {
		return err
	}
	txn.SetPessimistic(true)
	for {
		now, err := client.CurrentTimestamp("global")
		if err != nil {
			return err
		}
		wait := kv.NewLockCtx(now, 5000, time.Now())
		wait.InitReturnValues(1)
		err = txn.LockKeys(ctx, wait, counter)
		if err == nil {
			number := 0
			if locked, ok := wait.Values[string(counter)]; ok && len(locked.Value) > 0 {
				fmt.Sscanf(string(locked.Value), "%d", &number)
			}
			if err := txn.Set(counter, []byte(fmt.Sprintf("%d", number+1))); err != nil {
				return err
			}
			return txn.Commit(ctx)
		}
		if !isConflict(err) {
			txn.Rollback()
			return err
		}
	}
}

// Counts up from many goroutines, each under the lock of the counter.
func pessimistic(ctx context.Context, client *txnkv.Client) {
	var group sync.WaitGroup
	errs := make(chan error, 100)
	for worker := 0; worker < 8; worker++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for round := 0; round < 5; round++ {
				if err := lock(ctx, client, []byte("go/counter")); err != nil {
					errs <- err
				}
			}
		}()
	}
	group.Wait()
	close(errs)
	for err := range errs {
		check(err)
	}
	read, err := client.Begin()
	check(err)
	value, err := read.Get(ctx, []byte("go/counter"))
	check(err)
	show("counter", string(value))
	deadlock(ctx, client)
}

// Lets two transactions wait for each other, and shows what one of them is told.
func deadlock(ctx context.Context, client *txnkv.Client) {
	names := [][]byte{[]byte("go/dead/1"), []byte("go/dead/2")}
	told := make(chan string, 2)
	var both sync.WaitGroup
	both.Add(2)
	for side := 0; side < 2; side++ {
		go func(side int) {
			txn, err := client.Begin()
			check(err)
			txn.SetPessimistic(true)
			check(txn.LockKeys(ctx, kv.NewLockCtx(txn.StartTS(), 5000, time.Now()), names[side]))
			both.Done()
			both.Wait()
			err = txn.LockKeys(ctx, kv.NewLockCtx(txn.StartTS(), 5000, time.Now()), names[1-side])
			if err != nil && isDeadlock(err) {
				told <- "deadlock"
			} else if err != nil {
				told <- err.Error()
			} else {
				told <- "locked"
			}
			check(txn.Rollback())
		}(side)
	}
	first, second := <-told, <-told
	show("deadlock", first == "deadlock" || second == "deadlock")
	show("the other", first == "locked" || second == "locked")
}

func main() {
	logger, properties, err := log.InitLogger(&log.Config{Level: "fatal"})
	check(err)
	log.ReplaceGlobals(logger, properties)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	address, scenario := os.Args[1], os.Args[2]
	if scenario == "raw" {
		raw(ctx, address)
	} else {
		client, err := txnkv.NewClient([]string{address})
		check(err)
		switch scenario {
		case "transactions":
			transactions(ctx, client)
		case "pessimistic":
			pessimistic(ctx, client)
		}
		check(client.Close())
	}
	show("done", true)
}
