package main

import (
	"errors"

	tikverr "github.com/tikv/client-go/v2/error"
)

func isConflict(err error) bool {
	var conflict *tikverr.ErrWriteConflict
	return errors.As(err, &conflict)
}

func isDeadlock(err error) bool {
	var deadlock *tikverr.ErrDeadlock
	return errors.As(err, &deadlock)
}
